"""The replay on disk: only what is new since the last checkpoint is written."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dime.training.checkpoint import Arrays, Segment
from dime.training.checkpoint.reader import read_rows
from dime.training.checkpoint.writer import CheckpointFolder
from dime.training.replay import Replay, Storage, empty_replay, transitions, within_range
from dime.types import EnvSpec, Transition


class ReplaySaver:
    """Remembers which transitions are on disk, and in which files."""

    def __init__(self, checkpoints: CheckpointFolder, segments: list[Segment] | None = None):
        self._checkpoints = checkpoints
        self._segments = segments or []

    def save(self, replay: Replay, num_stored: int, seeds: list[int]) -> list[Segment]:
        """Writes the transitions since the last call; returns the segments that make the ring."""
        oldest = max(0, num_stored - replay.capacity)
        start = self._first_unsaved(replay, num_stored)
        if start < num_stored:
            rows = _rows(replay, start, num_stored)
            saved = self._checkpoints.save_segment(rows, start, num_stored, seeds)
            self._segments.append(saved)
        self._segments = [segment for segment in self._segments if segment.stop > oldest]
        return list(self._segments)

    def unsaved_bytes(self, replay: Replay, num_stored: int) -> int:
        """What the transitions take that the next `save` writes."""
        rows = num_stored - self._first_unsaved(replay, num_stored)
        one = jax.eval_shape(_transitions, replay, np.zeros(1, np.int32))
        return rows * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(one))

    def _first_unsaved(self, replay: Replay, num_stored: int) -> int:
        saved = self._segments[-1].stop if self._segments else 0
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
    """The rings of these seeds from `files` with the number of each one's first transition."""
    empty = jax.eval_shape(lambda: empty_replay(storage, spec))
    rings = {
        name: np.zeros((len(seeds), *ring.shape), ring.dtype)
        for name, ring in empty._asdict().items()
    }
    for file, start in files:
        arrays = read_rows(file, seeds)
        for name, ring in rings.items():
            _put(ring, arrays[name], start % storage.capacity)
    # Copied: the rings are donated to compiled programs, which must own them. One by one, so that
    # there is never a second replay.
    return Replay(**{name: jnp.array(rings.pop(name), copy=True) for name in list(rings)})


def _put(ring: np.ndarray, rows: np.ndarray, first: int) -> None:
    """Writes rows into a ring from a place on, round its end; the last ones remain if it is full.

    By slices: an index array would need more memory, and a replay has gigabytes.
    """
    capacity, count = ring.shape[1], rows.shape[1]
    for begin in range(-first, count, capacity):
        part = rows[:, max(begin, 0) : begin + capacity]
        place = first if begin < 0 else 0
        # The run that wrote them may have kept a larger range.
        ring[:, place : place + part.shape[1]] = within_range(ring.dtype, part)
