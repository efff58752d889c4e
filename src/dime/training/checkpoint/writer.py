"""Writing the checkpoints of a run, each whole or not at all."""

import errno
import json
import re
import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from dime.errors import DimeError
from dime.training.checkpoint import (
    Arrays,
    Checkpoint,
    DamagedError,
    RunState,
    Segment,
    segment_name,
)
from dime.training.checkpoint.reader import digest, encode, read_checkpoint, read_manifest, sealed
from dime.training.config import FORMAT_VERSION
from dime.training.records import sync_folder, write_bytes
from dime.training.replay import Replay, transitions
from dime.types import Transition

_NAME = re.compile(r"step-(\d+)(?:-(\d+))?")
KEPT = 2  # newest checkpoints; the older one is used if the newer one is damaged


def bytes_on_disk(arrays: Arrays) -> int:
    """About what a file of these arrays takes, its header and its last block included."""
    return sum(array.nbytes + len(name) + 128 for name, array in arrays.items()) + 4096


def explain_full_disk(error: OSError, folder: Path, needed: int) -> str:
    """The error's message; on a full disk, also how many bytes are missing for `needed`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        with suppress(OSError):
            free = shutil.disk_usage(folder).free
            missing = f": {_megabytes(needed - free)} are missing" if needed > free else ""
            return f"{error}; it needs {_megabytes(needed)}, {_megabytes(free)} are free{missing}"
    return str(error)


def _megabytes(count: int) -> str:
    return f"{-(-count // 10_000) / 100:.2f} MB"  # rounded up: with as many more it fits


class CheckpointFolder:
    """The checkpoints of one run."""

    def __init__(self, folder: Path):
        self.folder, self.replay_folder = folder, folder / "replay"

    def steps(self) -> list[Path]:
        """Folders of complete checkpoints, newest first."""
        found = self.folder.glob("step-*")
        named = (path for path in found if _NAME.fullmatch(path.name) and path.is_dir())
        return sorted(named, key=_order, reverse=True)

    def save(self, state: Arrays, episodes: Arrays, run: RunState, segments: list[Segment]) -> Path:
        """Writes a checkpoint; returns its folder. `segments` come from `save_segment`.

        A step's folder is written under another name and renamed once the disk has all of it.
        """
        path = self._free_name(run.env_step)
        temporary = self.folder / f".{path.name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()  # without parents: a run whose folder was removed is not half revived
        contents = {
            "state.safetensors": safetensors.numpy.save(state),
            "episodes.safetensors": safetensors.numpy.save(episodes),
            "run.json": encode(asdict(run)),
        }
        body = {
            "format_version": FORMAT_VERSION,
            "files": {name: asdict(digest(content)) for name, content in contents.items()},
            "replay": [asdict(segment) for segment in segments],
        }
        contents["manifest.json"] = sealed(body)
        try:
            for name, content in contents.items():
                write_bytes(temporary / name, content)
            sync_folder(temporary)
            temporary.rename(path)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)  # half of it would fill the disk further
            raise
        sync_folder(self.folder)
        with suppress(OSError):  # the checkpoint is complete; the next one tries again
            self._remove_old()
        return path

    def _free_name(self, env_step: int) -> Path:
        """`step-000000500`, or `step-000000500-1` if that step was saved before."""
        name = f"step-{env_step:09d}"
        taken = [_order(path)[1] for path in self.steps() if _order(path)[0] == env_step]
        return self.folder / (f"{name}-{max(taken) + 1}" if taken else name)

    def save_segment(self, rows: Arrays, start: int, stop: int, seeds: list[int]) -> Segment:
        """Writes transitions [start, stop) of these seeds; returns the segment's description."""
        self.replay_folder.mkdir(exist_ok=True)
        content = safetensors.numpy.save(rows, {"seeds": json.dumps(seeds)})
        name = segment_name(start, stop)
        write_bytes(self.replay_folder / name, content)
        sync_folder(self.replay_folder)
        return Segment(**asdict(digest(content)), start=start, stop=stop, file=name)

    def _remove_old(self) -> None:
        """Removes what no kept checkpoint needs, also what killed saves left."""
        kept = self.steps()[:KEPT]
        for path in (*self.steps()[KEPT:], *self.folder.glob(".step-*.tmp")):
            shutil.rmtree(path)
        needed = set()
        for path in kept:
            with suppress(DamagedError):
                needed |= {segment.file for segment in read_manifest(path).replay}
        for path in self.replay_folder.glob("*.safetensors*"):
            if path.name not in needed:
                path.unlink()

    def load_newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest intact checkpoint, and a warning for each damaged one on the way.

        None if no checkpoint was ever completed. Raises `DamagedError` if none is intact.
        """
        warnings: list[str] = []
        for path in self.steps():
            try:
                return self.load(path), warnings
            except DamagedError as error:
                warnings.append(str(error))
        if warnings:
            raise DamagedError("No checkpoint is intact. " + " ".join(warnings))
        return None, []

    def load(self, path: Path, *, replay: bool = True) -> Checkpoint:
        """Reads and verifies a checkpoint, its replay segments included if `replay`.

        `path` is its folder, or the name of one of this run's.
        """
        path = path if path.is_dir() else self.folder / path
        if not (path.is_dir() and _NAME.fullmatch(path.resolve().name)):
            there = ", ".join(step.name for step in self.steps()) or "none"
            raise DimeError(f"{path} is not a checkpoint's folder. In {self.folder}: {there}.")
        return read_checkpoint(path, self.replay_folder if replay else None)

    def set_aside(self, newest: Path) -> None:
        """Renames every checkpoint newer than `newest`, which were found damaged."""
        for path in self.steps():
            if _order(path) > _order(newest):
                aside = path.with_name(f"damaged-{path.name}")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)


def _order(path: Path) -> tuple[int, int]:
    """Env step and count of `step-000000500` or `step-000000500-1`."""
    match = _NAME.fullmatch(path.name)
    assert match is not None  # `steps` gives no others
    return int(match[1]), int(match[2] or 0)


class ReplaySaver:
    """Writes only what is new in the replay; remembers which transitions are in which files."""

    def __init__(self, checkpoints: CheckpointFolder, segments: list[Segment] | None = None):
        self._checkpoints = checkpoints
        self._segments = segments or []

    def save(self, replay: Replay, num_stored: int, seeds: list[int]) -> list[Segment]:
        """Writes the transitions since the last call; returns the segments that make the ring."""
        start = self._first_unsaved(replay, num_stored)
        if start < num_stored:
            numbers = np.arange(start, num_stored, dtype=np.int32)
            rows = jax.device_get(jax.jit(_transitions)(replay, numbers))
            arrays = {name: np.asarray(getattr(rows, name)) for name in Replay._fields}
            saved = self._checkpoints.save_segment(arrays, start, num_stored, seeds)
            self._segments.append(saved)
        oldest = num_stored - replay.capacity
        self._segments = [segment for segment in self._segments if segment.stop > oldest]
        return list(self._segments)

    def unsaved_bytes(self, replay: Replay, num_stored: int) -> int:
        """How many bytes of transitions the next `save` writes."""
        rows = num_stored - self._first_unsaved(replay, num_stored)
        one = jax.eval_shape(_transitions, replay, np.zeros(1, np.int32))
        return rows * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(one))

    def _first_unsaved(self, replay: Replay, num_stored: int) -> int:
        saved = self._segments[-1].stop if self._segments else 0
        return max(saved, num_stored - replay.capacity)


def _transitions(replay: Replay, numbers: Any) -> Transition:
    return jax.vmap(transitions, in_axes=(0, None))(replay, numbers)
