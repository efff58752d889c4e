"""The ring: which row holds what, and what is drawn from it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.training.config import TrainingConfig
from dime.training.replay import empty_replay, sample_batch, store
from dime.types import EnvSpec, Transition

SPEC = EnvSpec(obs_dim=2, action_dim=3)


def transition(number):
    """All parts tell the number."""
    return Transition(
        obs=jnp.full(2, float(number)),
        action=jnp.full(3, -float(number)),
        reward=jnp.float32(10 * number),
        next_obs=jnp.full(2, number + 0.5),
        terminated=jnp.array(number % 3 == 0),
    )


def filled(capacity, count):
    replay = empty_replay(TrainingConfig(replay_capacity=capacity), SPEC)
    for number in range(count):
        replay = store(replay, transition(number), jnp.int32(number))
    return replay


def test_an_empty_ring():
    replay = empty_replay(TrainingConfig(replay_capacity=5), SPEC)
    assert replay.capacity == 5
    shapes = {name: getattr(replay, name).shape for name in ("obs", "action", "reward")}
    assert shapes == {"obs": (5, 2), "action": (5, 3), "reward": (5,)}
    assert replay.terminated.dtype == bool


@pytest.mark.parametrize("count", [1, 3, 5, 6, 13])
def test_transition_t_stands_in_row_t_modulo_the_capacity(count):
    replay = filled(5, count)
    for number in range(max(0, count - 5), count):
        row = jax.tree.map(lambda ring, row=number % 5: ring[row], replay)
        for name in ("obs", "action", "reward", "next_obs", "terminated"):
            expected = getattr(transition(number), name)
            np.testing.assert_array_equal(getattr(row, name), expected)
    for row in range(count, 5):
        assert not replay.reward[row]


@pytest.mark.parametrize("count", [1, 3, 5, 13])
def test_only_stored_transitions_are_drawn_each_as_often(count):
    replay = filled(5, count)
    batch = sample_batch(replay, jnp.int32(count), 4000, jax.random.key(0))
    numbers, counts = np.unique(batch.transition.reward / 10, return_counts=True)
    stored = np.arange(max(0, count - 5), count)
    np.testing.assert_array_equal(numbers, stored)
    deviation = np.sqrt(4000 / len(stored))
    assert np.abs(counts - 4000 / len(stored)).max() < 4 * deviation


def test_a_batch_keeps_the_parts_of_a_transition_together():
    batch = sample_batch(filled(5, 13), jnp.int32(13), 50, jax.random.key(1))
    number = np.asarray(batch.transition.reward) / 10
    np.testing.assert_array_equal(batch.index, number % 5)
    np.testing.assert_array_equal(batch.transition.obs, np.stack([number] * 2, 1))
    np.testing.assert_array_equal(batch.transition.action, -np.stack([number] * 3, 1))
    np.testing.assert_array_equal(batch.transition.next_obs, np.stack([number + 0.5] * 2, 1))
    np.testing.assert_array_equal(batch.transition.terminated, number % 3 == 0)


def test_another_key_draws_another_batch():
    replay = filled(5, 13)
    one, other = (
        sample_batch(replay, jnp.int32(13), 50, jax.random.key(seed)).index for seed in (1, 2)
    )
    assert (one != other).any()


def test_observations_kept_in_half_precision():
    obs = np.array([1.0 + 2**-13, 1e6], np.float32)  # between two halves; beyond the largest
    row = Transition(
        jnp.asarray(obs), jnp.zeros(3), jnp.float32(1e6), jnp.asarray(-obs), jnp.array(False)
    )
    replay = store(
        empty_replay(TrainingConfig(replay_capacity=4, replay_dtype="float16"), SPEC),
        row,
        jnp.int32(0),
    )
    assert replay.obs.dtype == replay.next_obs.dtype == jnp.float16
    batch = sample_batch(replay, jnp.int32(1), 2, jax.random.key(0)).transition
    expected = np.array([[1.0, 65_504.0]] * 2, np.float32)
    np.testing.assert_array_equal(batch.obs, expected)
    np.testing.assert_array_equal(batch.next_obs, -expected)
    assert batch.obs.dtype == jnp.float32 and batch.reward.tolist() == [1e6] * 2


@pytest.mark.parametrize(
    ("dtype", "row_bytes"), [("float32", 4 * (2 * 223 + 39) + 1), ("float16", 2 * 446 + 4 * 39 + 1)]
)
def test_a_ring_takes_the_bytes_of_its_transitions(dtype, row_bytes):
    config = TrainingConfig(replay_dtype=dtype)
    shapes = jax.eval_shape(lambda: empty_replay(config, EnvSpec(223, 38)))
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in shapes)
    assert total == row_bytes * config.effective_capacity
