"""Checkpoints: written whole or not at all, verified when read, the replay saved incrementally.

    checkpoints/
      step-000000500/            the training state at that env step
        state.safetensors        the algorithm's state, all seeds stacked
        episodes.safetensors     observation, next action, actions of the episode in progress
        run.json                 counters, seeds, positions of episodes and of record files
        manifest.json            SHA-256 and size of these and of the replay segments needed
      replay/
        000000000-000000500.safetensors     transitions [0, 500) of every seed

A step's folder is written under another name and renamed when the disk has all of it. Arrays are
safetensors, everything else JSON; nothing is ever unpickled.
"""

import errno
import json
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from dime.errors import DimeError
from dime.training.checkpoint.files import (
    Arrays,
    DamagedError,
    digest,
    encode,
    read_arrays,
    read_manifest,
    read_run,
    read_verified,
    require_episodes,
    require_segment,
    verify,
)
from dime.training.checkpoint.former_names import with_present_names
from dime.training.checkpoint.schema import segment_name
from dime.training.config import FORMAT_VERSION
from dime.training.records import sync_folder, write_bytes

_NAME = re.compile(r"step-(\d+)(?:-(\d+))?")
KEPT = 2  # newest checkpoints; the older one is for the day the newer one is damaged


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint in memory."""

    path: Path
    state: Arrays
    episodes: Arrays
    run: dict[str, Any]
    replay_files: list[tuple[Path, int]]
    segments: list[dict[str, Any]]
    state_sha256: str

    @property
    def env_step(self) -> int:
        """The env step it was saved at."""
        return self.run["env_step"]


def to_arrays(tree: Any) -> Arrays:
    """A pytree's leaves by their path, as NumPy arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def from_arrays(arrays: Arrays, template: Any, of: str = "algorithm") -> Any:
    """The pytree of `template`'s structure, which is that `of` something, from its leaves by path.

    Raises `DimeError` where a leaf is missing, left over, or of another shape or type.
    """
    expected = jax.tree_util.tree_leaves_with_path(template)
    names = [jax.tree_util.keystr(path) for path, _ in expected]
    arrays = with_present_names(arrays, names)
    if set(names) != set(arrays):
        odd = sorted(set(names) ^ set(arrays))[:3]
        raise DimeError(f"The checkpoint's arrays do not fit this {of}; first: {odd}.")
    for name, (_, leaf) in zip(names, expected, strict=True):
        found = arrays[name]
        if found.shape != leaf.shape or found.dtype != leaf.dtype:
            raise DimeError(
                f"The checkpoint's {name} is {found.dtype}{list(found.shape)}, "
                f"this {of}'s is {leaf.dtype}{list(leaf.shape)}."
            )
    return jax.tree.unflatten(jax.tree.structure(template), [arrays[name] for name in names])


def bytes_on_disk(arrays: Arrays) -> int:
    """About what a file of these arrays takes, its header and its last block included."""
    return sum(array.nbytes + len(name) + 128 for name, array in arrays.items()) + 4096


def explain_full_disk(error: OSError, folder: Path, needed: int) -> str:
    """The error's message; where the disk is full, also how many bytes are missing for `needed`.

    >>> explain_full_disk(OSError(5, "Input/output error"), Path("."), 10)
    '[Errno 5] Input/output error'
    """
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return str(error)
    with suppress(OSError):
        free = shutil.disk_usage(folder).free
        missing = f": {_megabytes(needed - free)} are missing" if needed > free else ""
        return f"{error}; it needs {_megabytes(needed)}, {_megabytes(free)} are free{missing}"
    return str(error)


def _megabytes(count: int) -> str:
    """Rounded to the next hundredth.

    >>> _megabytes(85_991_234)
    '86.00 MB'
    """
    return f"{-(-count // 10_000) / 100:.2f} MB"


class CheckpointFolder:
    """The checkpoints of one run."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.replay_folder = folder / "replay"

    def steps(self) -> list[Path]:
        """Folders of complete checkpoints, newest first."""
        found = self.folder.glob("step-*")
        named = (path for path in found if _NAME.fullmatch(path.name) and path.is_dir())
        return sorted(named, key=_order, reverse=True)

    def save(
        self, state: Arrays, episodes: Arrays, run: dict[str, Any], segments: list[dict[str, Any]]
    ) -> Path:
        """Writes a checkpoint; returns its folder. `segments` come from `save_segment`."""
        path = self._free_name(run["env_step"])
        temporary = self.folder / f".{path.name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()  # without parents: a run whose folder was removed is not half revived
        contents = {
            "state.safetensors": safetensors.numpy.save(state),
            "episodes.safetensors": safetensors.numpy.save(episodes),
            "run.json": encode(run),
        }
        files = {name: digest(content) for name, content in contents.items()}
        body = {"format_version": FORMAT_VERSION, "files": files, "replay": segments}
        contents["manifest.json"] = encode({"content": body, **digest(encode(body))})
        try:
            for name, content in contents.items():
                write_bytes(temporary / name, content)
            sync_folder(temporary)
            temporary.rename(path)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)  # half of it would fill the disk further
            raise
        sync_folder(self.folder)
        with suppress(OSError):  # the checkpoint stands; the next one tries again
            self._remove_old()
        return path

    def _free_name(self, env_step: int) -> Path:
        """`step-000000500`, or `step-000000500-1` where that step was saved before."""
        name = f"step-{env_step:09d}"
        taken = [_order(path)[1] for path in self.steps() if _order(path)[0] == env_step]
        return self.folder / (f"{name}-{max(taken) + 1}" if taken else name)

    def save_segment(self, rows: Arrays, start: int, stop: int, seeds: list[int]) -> dict[str, Any]:
        """Writes transitions [start, stop) of these seeds; returns the segment's description."""
        self.replay_folder.mkdir(exist_ok=True)
        name = segment_name(start, stop)
        content = safetensors.numpy.save(rows, {"seeds": json.dumps(seeds)})
        write_bytes(self.replay_folder / name, content)
        sync_folder(self.replay_folder)
        return {"file": name, "start": start, "stop": stop, **digest(content)}

    def _remove_old(self) -> None:
        """Removes what no kept checkpoint needs, also what killed saves left."""
        kept = self.steps()[:KEPT]
        for path in (*self.steps()[KEPT:], *self.folder.glob(".step-*.tmp")):
            shutil.rmtree(path)
        needed = {segment["file"] for path in kept for segment in _peek_segments(path)}
        for path in self.replay_folder.glob("*.safetensors*"):
            if path.name not in needed:
                path.unlink()

    def load_newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest intact checkpoint, and a warning for each damaged one on the way.

        None where no checkpoint was ever completed. Raises `DamagedError` where none is intact.
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
        manifest = read_manifest(path, FORMAT_VERSION)
        contents = {
            name: read_verified(path / name, expected)
            for name, expected in manifest["files"].items()
        }
        arrays = {
            name: read_arrays(path / name, contents[name])
            for name in ("state.safetensors", "episodes.safetensors")
        }
        run = read_run(path / "run.json", contents["run.json"])
        require_episodes(path / "episodes.safetensors", arrays["episodes.safetensors"], run)
        segments = manifest["replay"]
        if (segments[-1]["stop"] if segments else 0) != run["env_step"]:
            raise DamagedError(f"{path} is damaged: its replay does not end at its env step.")
        if replay:
            self._verify_replay(segments, run)
        return Checkpoint(
            path=path,
            state=arrays["state.safetensors"],
            episodes=arrays["episodes.safetensors"],
            run=run,
            replay_files=[
                (self.replay_folder / segment["file"], segment["start"])
                for segment in (segments if replay else [])
            ],
            segments=segments,
            state_sha256=manifest["files"]["state.safetensors"]["sha256"],
        )

    def _verify_replay(self, segments: list[dict[str, Any]], run: dict[str, Any]) -> None:
        for segment in segments:
            file = self.replay_folder / segment["file"]
            verify(file, segment)
            require_segment(file, segment["stop"] - segment["start"], run)

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


def _peek_segments(path: Path) -> list[dict[str, Any]]:
    try:
        return read_manifest(path, FORMAT_VERSION)["replay"]
    except DamagedError:
        return []
