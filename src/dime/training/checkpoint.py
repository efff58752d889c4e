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

import hashlib
import json
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from dime.errors import DimeError
from dime.training.config import FORMAT_VERSION
from dime.training.records import sync_folder, write_bytes

Arrays = dict[str, np.ndarray]
_NAME = re.compile(r"step-(\d+)(?:-(\d+))?")
KEPT = 2  # newest checkpoints; the older one is for the day the newer one is damaged


class DamagedError(DimeError):
    """A file of a checkpoint is missing or is not what was written."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint in memory."""

    path: Path
    state: Arrays
    episodes: Arrays
    run: dict[str, Any]
    replay_files: list[tuple[Path, int]]
    segments: list[dict[str, Any]]

    @property
    def env_step(self) -> int:
        """The env step it was saved at."""
        return self.run["env_step"]


def to_arrays(tree: Any) -> Arrays:
    """A pytree's leaves by their path, as NumPy arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def from_arrays(arrays: Arrays, template: Any) -> Any:
    """The pytree of `template`'s structure from its leaves by path.

    Raises `DimeError` where a leaf is missing, left over, or of another shape or type.
    """
    expected = jax.tree_util.tree_leaves_with_path(template)
    names = [jax.tree_util.keystr(path) for path, _ in expected]
    if set(names) != set(arrays):
        odd = sorted(set(names) ^ set(arrays))[:3]
        raise DimeError(f"The checkpoint's arrays do not fit this algorithm; first: {odd}.")
    for name, (_, leaf) in zip(names, expected, strict=True):
        found = arrays[name]
        if found.shape != leaf.shape or found.dtype != leaf.dtype:
            raise DimeError(
                f"The checkpoint's {name} is {found.dtype}{list(found.shape)}, "
                f"this algorithm's is {leaf.dtype}{list(leaf.shape)}."
            )
    return jax.tree.unflatten(jax.tree.structure(template), [arrays[name] for name in names])


def _digest(content: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def _encode(content: Any) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


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
            "run.json": _encode(run),
        }
        files = {name: _digest(content) for name, content in contents.items()}
        body = {"format_version": FORMAT_VERSION, "files": files, "replay": segments}
        contents["manifest.json"] = _encode({"content": body, **_digest(_encode(body))})
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
        name = f"{start:09d}-{stop:09d}.safetensors"
        content = safetensors.numpy.save(rows, {"seeds": json.dumps(seeds)})
        write_bytes(self.replay_folder / name, content)
        sync_folder(self.replay_folder)
        return {"file": name, "start": start, "stop": stop, **_digest(content)}

    def _remove_old(self) -> None:
        """Removes what no kept checkpoint needs, also what killed saves left."""
        kept = self.steps()[:KEPT]
        for path in (*self.steps()[KEPT:], *self.folder.glob(".step-*.tmp")):
            shutil.rmtree(path)
        needed = {segment["file"] for path in kept for segment in _peek_segments(path)}
        for path in self.replay_folder.glob("*.safetensors*"):
            if path.name not in needed:
                path.unlink()

    def load_newest(self, *, replay: bool = True) -> tuple[Checkpoint | None, list[str]]:
        """The newest intact checkpoint, and a warning for each damaged one on the way.

        None where no checkpoint was ever completed. Raises `DamagedError` where none is intact.
        """
        warnings: list[str] = []
        for path in self.steps():
            try:
                return self.load(path, replay=replay), warnings
            except DamagedError as error:
                warnings.append(str(error))
        if warnings:
            raise DamagedError("No checkpoint is intact. " + " ".join(warnings))
        return None, []

    def load(self, path: Path, *, replay: bool = True) -> Checkpoint:
        """Reads and verifies a checkpoint, its replay segments included if `replay`."""
        if not path.is_dir():
            there = ", ".join(step.name for step in self.steps()) or "none"
            raise DimeError(f"{path} is not a checkpoint's folder. In {self.folder}: {there}.")
        manifest = _read_manifest(path)
        contents = {
            name: _read_verified(path / name, digest) for name, digest in manifest["files"].items()
        }
        replay_files = []
        for segment in manifest["replay"] if replay else []:
            file = self.replay_folder / segment["file"]
            _read_verified(file, segment)
            replay_files.append((file, segment["start"]))
        return Checkpoint(
            path=path,
            state=safetensors.numpy.load(contents["state.safetensors"]),
            episodes=safetensors.numpy.load(contents["episodes.safetensors"]),
            run=json.loads(contents["run.json"]),
            replay_files=replay_files,
            segments=manifest["replay"],
        )

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
        return _read_manifest(path)["replay"]
    except DamagedError:
        return []


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / "manifest.json"
    try:
        content = file.read_bytes()
        manifest = json.loads(content)
        body = manifest["content"]
        intact = content == _encode({"content": body, **_digest(_encode(body))})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{file} is damaged ({type(error).__name__}).") from error
    if not intact:
        raise DamagedError(f"{file} is damaged: its content does not match its SHA-256.")
    if body["format_version"] > FORMAT_VERSION:
        raise DimeError(
            f"{path} has format version {body['format_version']}; this release of dime reads up "
            f"to {FORMAT_VERSION}. Upgrade: pip install --upgrade dime-rl"
        )
    return body


def _read_verified(file: Path, expected: dict[str, Any]) -> bytes:
    try:
        if file.stat().st_size != expected["bytes"]:
            raise DamagedError(
                f"{file} is damaged: {file.stat().st_size} bytes instead of {expected['bytes']}."
            )
        content = file.read_bytes()
    except OSError as error:
        raise DamagedError(f"{file} is damaged: {error.strerror}.") from error
    if hashlib.sha256(content).hexdigest() != expected["sha256"]:
        raise DamagedError(f"{file} is damaged: its SHA-256 is not the recorded one.")
    return content


def read_rows(file: Path, seeds: list[int]) -> Arrays:
    """A replay segment's arrays for these seeds, stacked in their order."""
    with safetensors.safe_open(file, framework="numpy") as content:
        saved = json.loads(content.metadata()["seeds"])
        order = [saved.index(seed) for seed in seeds]
        return {name: content.get_tensor(name)[order] for name in content.keys()}  # noqa: SIM118
