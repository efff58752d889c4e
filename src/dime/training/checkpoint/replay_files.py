"""The replay on disk: only what is new since the last checkpoint is written."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dime.training.checkpoint.checkpoint import CheckpointFolder
from dime.training.checkpoint.files import Arrays, read_rows
from dime.training.replay import Replay, Rings, Storage, transitions, within_range
from dime.types import EnvSpec, Transition


class ReplaySaver:
    """Remembers which transitions are on disk, and in which files."""

    def __init__(self, checkpoints: CheckpointFolder, segments: list[dict[str, Any]] | None = None):
        self._checkpoints = checkpoints
        self._segments = segments or []

    def save(self, replay: Replay, num_stored: int, seeds: list[int]) -> list[dict[str, Any]]:
        """Writes the transitions since the last call; returns the segments that make the ring."""
        oldest = max(0, num_stored - replay.capacity)
        start = self._first_unsaved(replay, num_stored)
        if start < num_stored:
            rows = _rows(replay, start, num_stored)
            saved = self._checkpoints.save_segment(rows, start, num_stored, seeds)
            self._segments.append(saved)
        self._segments = [segment for segment in self._segments if segment["stop"] > oldest]
        return list(self._segments)

    def unsaved_bytes(self, replay: Replay, num_stored: int) -> int:
        """What the transitions take that the next `save` writes."""
        rows = num_stored - self._first_unsaved(replay, num_stored)
        one = jax.eval_shape(_transitions, replay, np.zeros(1, np.int32))
        return rows * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(one))

    def _first_unsaved(self, replay: Replay, num_stored: int) -> int:
        saved = self._segments[-1]["stop"] if self._segments else 0
        return max(saved, num_stored - replay.capacity)


def _transitions(replay: Replay, numbers: Any) -> Transition:
    """Every seed's transitions of these numbers."""
    return jax.vmap(transitions, in_axes=(0, None))(replay, numbers)


def _rows(replay: Replay, start: int, stop: int) -> Arrays:
    numbers = np.arange(start, stop, dtype=np.int32)
    rows = jax.device_get(jax.jit(_transitions)(replay, numbers))
    return {name: np.asarray(getattr(rows, name)) for name in Transition.__dataclass_fields__}


def load_replay(
    files: list[tuple[Path, int]], seeds: list[int], storage: Storage, spec: EnvSpec
) -> Replay:
    """The rings of these seeds from `files` with the number of each one's first transition.

    Where next observations are kept once, there is room for twice the ends of episodes found.
    """
    capacity, once = storage.capacity, storage.room_for_ends is not None
    rings = {
        "obs": np.zeros((len(seeds), capacity + once, spec.obs_dim), storage.dtype),
        "action": np.zeros((len(seeds), capacity, spec.action_dim), np.float32),
        "reward": np.zeros((len(seeds), capacity), np.float32),
        "terminated": np.zeros((len(seeds), capacity), bool),
    }
    if not once:
        rings["next_obs"] = np.zeros((len(seeds), capacity, spec.obs_dim), storage.dtype)
    ends = _Ends(len(seeds), storage, spec.obs_dim)
    for file, start in files:
        arrays = read_rows(file, seeds)
        for name, ring in rings.items():
            _put(ring, arrays[name], start % ring.shape[1])
        if once:
            ends.read(start, arrays)
            stop = start + arrays["obs"].shape[1]
            _put(rings["obs"], arrays["next_obs"][:, -1:], stop % (capacity + 1))
    end = num_ends = None
    if once:
        rings["next_obs"], end, num_ends = ends.arrays()
    # Copied: the rings are donated to compiled programs, which must own them. One by one, so that
    # there is never a second replay.
    rows = Rings(**{name: jnp.array(rings.pop(name), copy=True) for name in list(rings)})
    if end is None or num_ends is None:
        return Replay(rows)
    return Replay(rows, jnp.array(end), jnp.array(num_ends))


class _Ends:
    """Finds where episodes ended: where a next observation is not the next transition's own."""

    def __init__(self, num_seeds: int, storage: Storage, obs_dim: int):
        self._storage, self._obs_dim = storage, obs_dim
        self._found: list[list[tuple[int, np.ndarray]]] = [[] for _ in range(num_seeds)]
        self._newest = -1
        self._last: np.ndarray | None = None

    def read(self, start: int, arrays: Arrays) -> None:
        """The next file's transitions."""
        obs, next_obs = arrays["obs"], arrays["next_obs"]
        if self._last is not None:
            self._compare(self._newest, self._last, obs[:, :1])
        self._compare(start, next_obs[:, :-1], obs[:, 1:])
        self._newest, self._last = start + obs.shape[1] - 1, next_obs[:, -1:]

    def _compare(self, first: int, next_obs: np.ndarray, following: np.ndarray) -> None:
        for seed, place in np.argwhere((next_obs != following).any(-1)).tolist():
            self._found[seed].append((first + place, next_obs[seed, place].copy()))

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`rows.next_obs`, `end` and `num_ends` of the rings."""
        capacity, room = self._storage.capacity, self._storage.room_for_ends or 0
        oldest = self._newest - capacity + 1
        in_ring = [[one for one in found if one[0] >= oldest] for found in self._found]
        room = max(room, min(2 * max(map(len, in_ring)), capacity))
        next_obs = np.zeros((len(in_ring), room, self._obs_dim), self._storage.dtype)
        end = np.full((len(in_ring), capacity), -1, np.int32)
        for seed, found in enumerate(in_ring):
            for number, (at, obs) in enumerate(found):
                next_obs[seed, number] = within_range(next_obs.dtype, obs)
                end[seed, at % capacity] = number
        return next_obs, end, np.array([len(found) for found in in_ring], np.int32)


def _put(ring: np.ndarray, rows: np.ndarray, first: int) -> None:
    """Writes rows into a ring from a place on, round its end; the last of them stand if it is full.

    By slices: an index array would need memory of its own, and a replay has gigabytes.
    """
    capacity, count = ring.shape[1], rows.shape[1]
    for begin in range(-first, count, capacity):
        part = rows[:, max(begin, 0) : begin + capacity]
        place = first if begin < 0 else 0
        # The run that wrote them may have kept a larger range.
        ring[:, place : place + part.shape[1]] = within_range(ring.dtype, part)
