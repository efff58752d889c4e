"""The replay: a ring of transitions on the device."""

from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from dime.training.config import TrainingConfig
from dime.types import Batch, EnvSpec, Transition

_LARGEST_HALF = 65_504.0  # of float16
AnyArray = TypeVar("AnyArray", Array, np.ndarray)


class Replay(NamedTuple):
    """Transitions of one seed, `capacity` rows; transition number t is in row t % capacity.

    How many there are is the number of env steps taken, so the ring needs no cursor.
    """

    obs: Shaped[Array, "*seeds rows obs"]
    action: Float[Array, "*seeds rows act"]
    reward: Float[Array, "*seeds rows"]
    next_obs: Shaped[Array, "*seeds rows obs"]
    terminated: Bool[Array, "*seeds rows"]

    @property
    def capacity(self) -> int:
        """How many transitions fit."""
        return self.reward.shape[-1]


def empty_replay(config: TrainingConfig, spec: EnvSpec, *num_seeds: int) -> Replay:
    """A ring without transitions; with a number of seeds, one for each."""
    rows = (*num_seeds, config.effective_capacity)
    return Replay(
        obs=jnp.zeros((*rows, spec.obs_dim), config.replay_dtype),
        action=jnp.zeros((*rows, spec.action_dim)),
        reward=jnp.zeros(rows),
        next_obs=jnp.zeros((*rows, spec.obs_dim), config.replay_dtype),
        terminated=jnp.zeros(rows, bool),
    )


def store(replay: Replay, transition: Transition, number: Int[Array, "*batch"]) -> Replay:
    """The ring with transition `number` (0, 1, 2, ...) in it, over the oldest when it is full.

    Several transitions with their numbers may be stored at once.
    """
    row = number % replay.capacity
    new = Replay(**{name: getattr(transition, name) for name in Replay._fields})
    return jax.tree.map(
        lambda ring, part: ring.at[row].set(within_range(ring.dtype, part).astype(ring.dtype)),
        replay,
        new,
    )


def transitions(replay: Replay, numbers: Int[Array, " batch"]) -> Transition:
    """The transitions of these numbers, which must be in the ring."""
    rows = jax.tree.map(lambda ring: ring[numbers % replay.capacity], replay)
    as_floats = {name: getattr(rows, name).astype(jnp.float32) for name in ("obs", "next_obs")}
    return Transition(**(rows._asdict() | as_floats))


def sample_batch(
    replay: Replay, num_stored: Int[Array, ""], batch_size: int, key: Key[Array, ""]
) -> Batch:
    """A uniformly drawn minibatch, with replacement, of the `num_stored` transitions so far."""
    size = jnp.minimum(num_stored, replay.capacity)
    row = jax.random.randint(key, (batch_size,), 0, size)
    newest = num_stored - 1
    return Batch(transitions(replay, newest - (newest - row) % replay.capacity), row)


def within_range(dtype: Any, values: AnyArray) -> AnyArray:
    """The values as near as the dtype can have them: beyond float16's range would be infinity."""
    return values.clip(-_LARGEST_HALF, _LARGEST_HALF) if dtype == jnp.float16 else values
