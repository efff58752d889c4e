"""A policy as a function of arrays."""

import jax
import numpy as np
import pytest

from dime.deploy.action import to_env_units
from dime.envs.spaces import Spaces


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_units_of_the_environment_to_the_last_bit(dtype):
    low, high = (-0.37, -3.3, -0.4, -1.0, 1e-3), (1.234, 7.7, 0.4, 1.0, 1e6)
    spaces = Spaces("units", (), (5,), dtype, low, high)
    action = np.random.default_rng(0).uniform(-1.1, 1.1, (50_000, 5)).astype(np.float32)
    action[:3] = [[-1.0] * 5, [1.0] * 5, [0.0] * 5]
    found = np.asarray(jax.jit(lambda action: to_env_units(spaces, action))(action))
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, spaces.to_env_action(action))
