"""BRO's exploring actor: its loss by hand, and both ways of the two weights."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.algorithms.bro.explorer import Explorer, OptimismConfig, bounded, explore_step, unbounded
from dime.policies.tanh_gaussian import TanhGaussian
from dime.types import EnvSpec
from tests.drawn import normal

SPEC, ROWS = EnvSpec(obs_dim=3, action_dim=2), 16
CONFIG = OptimismConfig(hidden_dim=8, learning_rate=1e-2)
OBS, MEAN = normal(0, ROWS, 3), normal(1, ROWS, 2)


@jax.jit
def begin(key):
    return Explorer.start(CONFIG, SPEC, key)


def constant(action):
    """Two critics with three outputs that know nothing of the action."""
    rows = jnp.ones((2, action.shape[0], 1))
    return rows * jnp.array([[[2.0, 4.0, 0.0]], [[5.0, 1.0, 0.0]]]) + 0.0 * action.sum()


def divided(action):
    """Two critics that agree on an action of 0 and differ the more the farther it is off."""
    return 10.0 * jnp.stack([action[:, :1], -action[:, :1]])


def step(explorer, log_std, outputs_of=constant):
    law = TanhGaussian(MEAN, jnp.full((ROWS, 2), log_std))
    return explore_step(CONFIG, explorer, OBS, law, outputs_of, jax.random.key(1))


step_constant = jax.jit(step)


def without_shift(explorer):
    kernel = lambda e: e.shift.kernel  # noqa: E731
    return eqx.tree_at(kernel, explorer, jnp.zeros_like(explorer.shift.kernel))


@pytest.mark.parametrize("value, raw", [(1.0, 0.14384), (0.25, -0.01558)])
def test_the_bounded_map_has_known_numbers(value, raw):
    assert float(unbounded(value)) == pytest.approx(raw, abs=2e-5)
    assert float(bounded(jnp.float32(raw))) == pytest.approx(value, rel=2e-4)


def test_the_bounded_map_has_known_ends():
    ends = bounded(jnp.array([-50.0, 50.0]))
    np.testing.assert_allclose(ends, [np.exp(-10.0), np.exp(7.5)], rtol=1e-5)


def test_both_weights_start_at_their_values():
    weights = bounded(begin(jax.random.key(0)).raw_weights)
    np.testing.assert_allclose(weights, [1.0, 0.25], rtol=1e-4)  # optimism, divergence


@pytest.mark.parametrize("log_std", [-2.0, 0.5])
def test_loss_and_divergence_by_hand(log_std):
    explorer = begin(jax.random.key(0))
    shift = np.asarray(explorer.shift(OBS, MEAN))
    assert np.abs(shift).min() > 0.0
    # Gaussians of equal width: half the squared distance in standard deviations, summed.
    divergence = (shift**2 / (2.0 * np.exp(log_std) ** 2)).sum(axis=-1).mean()
    hoped_for = np.mean([3.5 + 1.5, 2.5 + 1.5, 0.0])  # the mean plus half the distance
    _, metrics = step_constant(explorer, log_std)
    told = float(metrics["exploration_divergence_per_dim"])
    assert told == pytest.approx(divergence / 2, rel=1e-4)
    assert float(metrics["exploration_loss"]) == pytest.approx(
        0.25 * divergence - hoped_for, rel=1e-4
    )
    assert float(metrics["optimism"]) == pytest.approx(1.0, rel=1e-4)
    assert float(metrics["divergence_weight"]) == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize("moved, log_std, raised", [
    (True, -10.0, [False, True]),  # far off in standard deviations: less optimism, held closer
    (False, -10.0, [True, False]),  # not at all: the reverse
])  # fmt: skip
def test_both_weights_drive_the_divergence_to_its_target(moved, log_std, raised):
    explorer = begin(jax.random.key(0))
    explorer = explorer if moved else without_shift(explorer)
    after, metrics = step_constant(explorer, log_std)
    divergence = float(metrics["exploration_divergence_per_dim"])
    assert divergence > 100.0 if moved else divergence == 0.0
    change = np.asarray(after.raw_weights - explorer.raw_weights)
    assert (change > 0.0).tolist() == raised
    np.testing.assert_allclose(np.abs(change), 3e-5, rtol=0.01)  # Adam's first step


def test_the_actor_goes_where_the_critics_disagree():
    """From where they agree, mean 0: the farther off, the more there is to hope for."""
    law = TanhGaussian(jnp.full((ROWS, 2), 0.05), jnp.full((ROWS, 2), -3.0))
    explorer = begin(jax.random.key(0))

    @jax.jit
    def climb(explorer):
        def one(explorer, number):
            key = jax.random.fold_in(jax.random.key(2), number)
            return explore_step(CONFIG, explorer, OBS, law, divided, key)

        return jax.lax.scan(one, explorer, jnp.arange(40))

    after, _ = climb(explorer)
    before, moved = (np.asarray(e.shift(OBS, law.mean)) for e in (explorer, after))
    # At the end the divergence, 1/4 * distance^2 / (2 std^2), holds it.
    assert np.abs(before).max() < 0.05 < moved[:, 0].mean() < 1.0
    assert np.abs(moved[:, 1]).mean() < 0.1


def test_the_exploring_law_is_moved_by_what_it_sees():
    explorer = begin(jax.random.key(0))
    law = TanhGaussian(MEAN, normal(3, ROWS, 2))
    made = jax.jit(Explorer.distribution)(explorer, OBS, law)
    np.testing.assert_allclose(made.mean, MEAN + explorer.shift(OBS, MEAN), rtol=1e-4)
    np.testing.assert_allclose(jnp.exp(made.log_std), 0.75 * jnp.exp(law.log_std), rtol=1e-5)
