"""BRO's two actors: the bounds of the one, what the other sees."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.algorithms.bro.explorer import BroNetConfig, BroPolicy, OptimismConfig, OptimisticShift
from dime.errors import DimeError
from dime.policies.tanh_gaussian import TanhGaussian
from dime.types import EnvSpec
from tests.drawn import drawn, normal

SPEC = EnvSpec(obs_dim=3, action_dim=2)
CONFIG, OPTIMISM = BroNetConfig(hidden_dim=8), OptimismConfig(hidden_dim=8)


def policy(key):
    return BroPolicy(CONFIG, SPEC, key)


def shift(key):
    return OptimisticShift(OPTIMISM, SPEC, key)


def test_the_log_std_is_bounded_smoothly():
    obs, made = normal(0, 6, 3), drawn(policy)
    features = jax.jit(made.trunk.__call__)(obs)
    law = jax.jit(BroPolicy.distribution)(made, obs)
    raw = np.asarray(features @ made.raw_log_std.kernel + made.raw_log_std.bias)
    np.testing.assert_allclose(law.log_std, -10.0 + 6.0 * (1.0 + np.tanh(raw)), rtol=1e-4)
    mean = features @ made.mean.kernel + made.mean.bias
    np.testing.assert_allclose(law.mean, mean, rtol=1e-4, atol=1e-5)
    ends = eqx.tree_at(lambda p: p.raw_log_std.bias, made, jnp.array([-1e3, 1e3]))
    np.testing.assert_allclose(jax.jit(BroPolicy.distribution)(ends, obs).log_std[0], [-10.0, 2.0])


def test_heads_start_with_their_gains():
    made, moved = jax.jit(policy)(jax.random.key(0)), jax.jit(shift)(jax.random.key(1))
    gains = {2.0**0.5: made.mean.kernel, 1.0: made.raw_log_std.kernel, 0.01: moved.kernel}
    for gain, kernel in gains.items():
        singular = np.linalg.svd(kernel, compute_uv=False)
        np.testing.assert_allclose(singular, gain, rtol=1e-4)


def test_the_shift_is_a_bias_free_head_over_observation_and_mean():
    made, obs, mean = drawn(shift), normal(1, 6, 3), normal(2, 6, 2)
    output = jax.jit(OptimisticShift.__call__)(made, obs, mean)
    features = jax.jit(made.trunk.__call__)(np.concatenate([obs, mean], axis=-1))
    np.testing.assert_allclose(output, features @ made.kernel, rtol=1e-4, atol=1e-5)
    other = jax.jit(OptimisticShift.__call__)(made, obs, mean + 1.0)
    assert np.abs(other - output).max() > 0.1


def test_the_exploring_law_is_the_others_moved_and_narrower():
    made = drawn(shift)
    law = TanhGaussian(normal(3, 4, 2), normal(4, 4, 2))
    explores = made.moved(law, jnp.full((4, 2), 0.3))
    np.testing.assert_allclose(explores.mean, law.mean + 0.3, rtol=1e-6)
    np.testing.assert_allclose(jnp.exp(explores.log_std - law.log_std), 0.75, rtol=1e-5)


def test_weight_decay_is_decoupled():
    """With no gradient, parameters shrink by the rate times the decay, whatever Adam does."""
    optimizer = BroNetConfig(learning_rate=0.1, weight_decay=0.5).make_optimizer()
    parameters = jnp.array([2.0, -4.0])
    updates, _ = optimizer.update(jnp.zeros(2), optimizer.init(parameters), parameters)
    np.testing.assert_allclose(updates, -0.1 * 0.5 * parameters, rtol=1e-6)
    assert BroNetConfig().weight_decay == 1e-4


@pytest.mark.parametrize("fields", [
    {"initial_optimism": 0.0},
    {"initial_optimism": 2_000.0},
    {"initial_divergence_weight": 1e-5},
    {"std_multiplier": 0.0},
    {"target_divergence_per_dim": -0.05},
], ids=str)  # fmt: skip
def test_settings_that_cannot_work_are_refused(fields):
    (name, value), *_ = fields.items()
    with pytest.raises(DimeError, match=name) as caught:
        OptimismConfig(**fields)
    assert str(value) in str(caught.value)
