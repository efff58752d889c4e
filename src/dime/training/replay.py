"""The replay: a ring of transitions on the device."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from dime.types import Batch, EnvSpec, Transition


class Replay(NamedTuple):
    """Transitions of one seed, `capacity` rows; transition number t stands in row t % capacity.

    How many there are is the number of env steps taken, so the ring has no cursor of its own.
    """

    rows: Transition

    @property
    def capacity(self) -> int:
        """How many transitions fit."""
        return self.rows.reward.shape[-1]


def empty_replay(capacity: int, spec: EnvSpec) -> Replay:
    """A ring without transitions."""
    return Replay(
        Transition(
            obs=jnp.zeros((capacity, spec.obs_dim)),
            action=jnp.zeros((capacity, spec.action_dim)),
            reward=jnp.zeros(capacity),
            next_obs=jnp.zeros((capacity, spec.obs_dim)),
            terminated=jnp.zeros(capacity, bool),
        )
    )


def store(replay: Replay, transition: Transition, number: Int[Array, ""]) -> Replay:
    """The ring with transition `number` (0, 1, 2, ...) in it, over the oldest when it is full."""
    row = number % replay.capacity
    return Replay(jax.tree.map(lambda ring, new: ring.at[row].set(new), replay.rows, transition))


def sample_batch(
    replay: Replay, num_stored: Int[Array, ""], batch_size: int, key: Key[Array, ""]
) -> Batch:
    """A uniformly drawn minibatch, with replacement, of the `num_stored` transitions so far."""
    size = jnp.minimum(num_stored, replay.capacity)
    index = jax.random.randint(key, (batch_size,), 0, size)
    return Batch(jax.tree.map(lambda ring: ring[index], replay.rows), index)
