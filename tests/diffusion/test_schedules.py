"""Step sizes: the cosine profile, the learnt scales, their inverse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.diffusion.schedules import cosine_profile, inverse_softplus, learnt_step_sizes


@pytest.mark.parametrize("num_steps", [1, 2, 16, 64])
def test_profile_is_the_cosine_counted_from_the_noise_end(num_steps):
    # DIME appendix D: the k-th of N noising steps has t = k / N; step n here undoes k = N - n.
    time = np.arange(num_steps, 0, -1) / num_steps
    expected = 0.999 * np.cos(0.5 * np.pi * (1.008 - time) / 1.008) ** 2 + 0.001
    np.testing.assert_allclose(cosine_profile(num_steps), expected, rtol=1e-4, atol=1e-6)


def test_profile_falls_from_one_to_almost_nothing():
    profile = cosine_profile(16)
    assert (jnp.diff(profile) < 0.0).all()
    np.testing.assert_allclose(0.1 * profile[jnp.array([0, 1, 14, 15])],
                               [0.1000, 0.0992, 0.0042, 0.0012], atol=2e-3)  # fmt: skip
    assert 0.001 < profile[-1] < 0.02


def test_step_sizes_factor_into_scale_profile_and_divisor():
    raw_scale, raw_divisor = jnp.asarray(-1.0), jnp.array([0.3, 2.0, -0.5])
    expected = (
        np.log1p(np.exp(-1.0))
        * np.asarray(cosine_profile(8))[:, None]
        / np.log1p(np.exp(np.asarray(raw_divisor)))
    )
    step_sizes = learnt_step_sizes(raw_scale, raw_divisor, 8)
    np.testing.assert_allclose(step_sizes, expected, rtol=1e-5)


@pytest.mark.parametrize("value", [1e-3, 0.1, 1.0, 10.0])
def test_inverse_softplus(value):
    raw = inverse_softplus(value)
    assert raw.dtype == jnp.float32
    np.testing.assert_allclose(jax.nn.softplus(raw), value, rtol=1e-4)
