"""Critics with slow copies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.critics.critics import TargetCriticConfig, critic_outputs, follow
from dime.critics.heads import ScalarHead, SoftBackup
from dime.errors import DimeError
from dime.types import EnvSpec


def key(number=0):
    return jax.random.key(number)


CONFIG = TargetCriticConfig(hidden_dim=8)


def test_every_critic_has_its_own_parameters_and_sees_observation_and_action():
    made = CONFIG.make(EnvSpec(3, 2), ScalarHead(), jax.nn.relu).start(key())
    critics = made.online
    for online, slow in zip(*map(jax.tree.leaves, (made.online, made.slow)), strict=True):
        np.testing.assert_array_equal(online, slow)
    obs, action = jax.random.normal(key(), (4, 3)), jnp.ones((4, 2))
    outputs = critic_outputs(critics, obs, action)
    assert outputs.shape == (2, 4, 1)
    assert jnp.abs(outputs[0] - outputs[1]).min() > 1e-4
    assert jnp.abs(outputs - critic_outputs(critics, obs, -action)).max() > 1e-3
    alone = jax.tree.map(lambda leaf: leaf[1], critics)
    x = jnp.concatenate([obs, action], axis=-1)
    for layer in alone.layers[:-1]:
        x = jnp.maximum(x @ layer.kernel + layer.bias, 0.0)
    last = alone.layers[-1]
    np.testing.assert_allclose(outputs[1], x @ last.kernel + last.bias, rtol=1e-5, atol=1e-6)


def test_the_copy_follows_in_closed_form():
    target = jnp.zeros(3)
    for _ in range(10):
        target = follow(target, jnp.full(3, 2.0), 0.1)
    np.testing.assert_allclose(target, 2.0 * (1.0 - 0.9**10), rtol=1e-6)


def test_the_smallest_value_makes_the_soft_target():
    backup = SoftBackup(jnp.array([1.0]), jnp.array([0.5]), jnp.array([0.25]))
    target = ScalarHead(combine=jnp.min).target(jnp.array([[[4.0]], [[3.0]]]), backup)
    np.testing.assert_allclose(target, [1.0 + 0.5 * (3.0 - 0.25)])


@pytest.mark.parametrize("rate", [0.0, 1.1, float("nan")])
def test_a_rate_outside_is_refused(rate):
    with pytest.raises(DimeError, match="target_rate is"):
        TargetCriticConfig(target_rate=rate)
