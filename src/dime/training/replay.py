"""The replay: a ring of transitions on the device."""

from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from dime.types import Batch, EnvSpec, Transition

_LARGEST_HALF = 65_504.0  # of float16
AnyArray = TypeVar("AnyArray", Array, np.ndarray)


class Storage(NamedTuple):
    """How a ring keeps its transitions."""

    capacity: int
    """How many fit."""
    dtype: str = "float32"
    """Of observations."""
    room_for_ends: int | None = None
    """With a number, an observation that is also the next one's first is kept once, and of next
    observations only those at the ends of episodes, so many of them."""


class Rings(NamedTuple):
    """The parts of transitions, each a ring of its own; those of observations in any dtype."""

    obs: Shaped[Array, "*seeds obs_rows obs"]
    action: Float[Array, "*seeds rows act"]
    reward: Float[Array, "*seeds rows"]
    next_obs: Shaped[Array, "*seeds next_obs_rows obs"]
    terminated: Bool[Array, "*seeds rows"]


class Replay(NamedTuple):
    """Transitions of one seed, `capacity` rows; transition number t stands in row t % capacity.

    How many there are is the number of env steps taken, so the ring has no cursor of its own. Where
    next observations are kept once, `rows.obs` has a row more: the one of transition t stands in
    row t % (capacity + 1), and its successor's is its next observation, unless an episode ended
    with it. Then `end` has the number of that end, and `rows.next_obs` its observation, in row
    end % room_for_ends; else `end` is -1.
    """

    rows: Rings
    end: Int[Array, "*seeds rows"] | None = None
    num_ends: Int[Array, "*seeds"] | None = None

    @property
    def capacity(self) -> int:
        """How many transitions fit."""
        return self.rows.reward.shape[-1]


def empty_replay(storage: Storage, spec: EnvSpec) -> Replay:
    """A ring without transitions."""
    capacity, once = storage.capacity, storage.room_for_ends is not None
    rows = Rings(
        obs=jnp.zeros((capacity + once, spec.obs_dim), storage.dtype),
        action=jnp.zeros((capacity, spec.action_dim)),
        reward=jnp.zeros(capacity),
        next_obs=jnp.zeros((storage.room_for_ends or capacity, spec.obs_dim), storage.dtype),
        terminated=jnp.zeros(capacity, bool),
    )
    if not once:
        return Replay(rows)
    return Replay(rows, jnp.full(capacity, -1, jnp.int32), jnp.zeros((), jnp.int32))


def store(replay: Replay, transition: Transition, number: Int[Array, "*batch"]) -> Replay:
    """The ring with transition `number` (0, 1, 2, ...) in it, over the oldest when it is full.

    Several at once, too, where next observations are not kept once.
    """
    rows, row = replay.rows, number % replay.capacity
    dtype = rows.obs.dtype
    obs, next_obs = (
        within_range(dtype, part).astype(dtype) for part in (transition.obs, transition.next_obs)
    )
    if replay.end is None or replay.num_ends is None:
        new = Rings(obs, transition.action, transition.reward, next_obs, transition.terminated)
        return Replay(jax.tree.map(lambda ring, part: ring.at[row].set(part), rows, new))
    # Where another observation was expected here, an episode ended with the transition before.
    here, following = number % (replay.capacity + 1), (number + 1) % (replay.capacity + 1)
    expected = rows.obs[here]
    ended = (number > 0) & (obs != expected).any()
    place, before = replay.num_ends % rows.next_obs.shape[0], (number - 1) % replay.capacity
    filled = Rings(
        obs=rows.obs.at[here].set(obs).at[following].set(next_obs),
        action=rows.action.at[row].set(transition.action),
        reward=rows.reward.at[row].set(transition.reward),
        next_obs=rows.next_obs.at[place].set(jnp.where(ended, expected, rows.next_obs[place])),
        terminated=rows.terminated.at[row].set(transition.terminated),
    )
    end = replay.end.at[before].set(jnp.where(ended, replay.num_ends, replay.end[before]))
    return Replay(filled, end.at[row].set(-1), replay.num_ends + ended)


def transitions(replay: Replay, numbers: Int[Array, " batch"]) -> Transition:
    """The transitions of these numbers, which must be in the ring."""
    rows, row = replay.rows, numbers % replay.capacity
    if replay.end is None:
        obs, next_obs = rows.obs[row], rows.next_obs[row]
    else:
        obs = rows.obs[numbers % (replay.capacity + 1)]
        end = replay.end[row]
        next_obs = jnp.where(
            (end >= 0)[:, None],
            rows.next_obs[end % rows.next_obs.shape[0]],
            rows.obs[(numbers + 1) % (replay.capacity + 1)],
        )
    return Transition(
        obs.astype(jnp.float32),
        rows.action[row],
        rows.reward[row],
        next_obs.astype(jnp.float32),
        rows.terminated[row],
    )


def sample_batch(
    replay: Replay, num_stored: Int[Array, ""], batch_size: int, key: Key[Array, ""]
) -> Batch:
    """A uniformly drawn minibatch, with replacement, of the `num_stored` transitions so far."""
    size = jnp.minimum(num_stored, replay.capacity)
    row = jax.random.randint(key, (batch_size,), 0, size)
    newest = num_stored - 1
    return Batch(transitions(replay, newest - (newest - row) % replay.capacity), row)


def with_room_for_ends(replay: Replay, room: int) -> Replay:
    """Every seed's ring with so much more room for the ends of episodes."""
    old = replay.rows.next_obs
    assert replay.num_ends is not None
    numbers = replay.num_ends[:, None] - 1 - jnp.arange(old.shape[1])  # the newest ones
    seeds = jnp.arange(old.shape[0])[:, None]
    kept = old[seeds, numbers % old.shape[1]]
    new = jnp.zeros((old.shape[0], room, old.shape[2]), old.dtype)
    larger = replay.rows._replace(next_obs=new.at[seeds, numbers % room].set(kept))
    return replay._replace(rows=larger)


def within_range(dtype: Any, values: AnyArray) -> AnyArray:
    """The values as near as the dtype can have them: beyond float16's range would be infinity."""
    return values.clip(-_LARGEST_HALF, _LARGEST_HALF) if dtype == jnp.float16 else values
