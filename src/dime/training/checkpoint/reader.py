"""Reading a checkpoint: sizes before contents, SHA-256 before use, then the layout."""

import errno
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from io import BufferedReader
from pathlib import Path
from stat import S_ISREG
from typing import Any, TypeVar

import numpy as np
import safetensors
import safetensors.numpy

from dime.envs.spaces import Spaces
from dime.errors import DimeError
from dime.training.checkpoint import (
    Arrays,
    Checkpoint,
    DamagedError,
    Digest,
    Layout,
    Manifest,
    RunState,
    Segment,
    require_layout,
)
from dime.training.config import FORMAT_VERSION, from_table
from dime.training.records import parse_json, read_small

_NOT_ARRAYS = (safetensors.SafetensorError, ValueError, KeyError, TypeError, OverflowError)
_MISSING_OR_BROKEN = (errno.ENOENT, errno.ENOTDIR, errno.EIO)
Content = TypeVar("Content")


def digest(content: bytes) -> Digest:
    """What a manifest says of a file."""
    return Digest(hashlib.sha256(content).hexdigest(), len(content))


def encode(content: Any) -> bytes:
    """The one way in which a checkpoint's JSON is written."""
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def sealed(body: Any) -> bytes:
    """The bytes of a manifest.json with this content, and with a SHA-256 of it."""
    return encode({"content": body, **asdict(digest(encode(body)))})


def read_checkpoint(path: Path, replay_folder: Path | None) -> Checkpoint:
    """Reads and verifies a checkpoint, its replay segments included if their folder is given.

    Raises:
        DamagedError: a file is missing or is not what was written.
        DimeError: it cannot be read now, or was written by a newer release.
    """
    manifest = read_manifest(path)
    contents = {name: _verified(path / name, known) for name, known in manifest.files.items()}
    run = _read_run(path / "run.json", contents["run.json"])
    state = _arrays(path / "state.safetensors", contents["state.safetensors"])
    episodes = _arrays(path / "episodes.safetensors", contents["episodes.safetensors"])
    if not run.on_device:  # else the task itself says what it needs, when the run goes on
        expected = _layout_of_episodes(run, episodes)
        _require(path / "episodes.safetensors", episodes, expected)
    if (manifest.replay[-1].stop if manifest.replay else 0) != run.env_step:
        raise DamagedError(f"{path} is damaged: its replay does not end at its env step.")
    segments = manifest.replay if replay_folder else []
    files = [((replay_folder or path) / segment.file, segment.start) for segment in segments]
    for (file, _), segment in zip(files, segments, strict=True):
        _verify_segment(file, segment, run)
    sha256 = manifest.files["state.safetensors"].sha256
    return Checkpoint(path, state, episodes, run, manifest.replay, files, sha256)


def read_manifest(path: Path) -> Manifest:
    """The verified content of a checkpoint's manifest.json. Raises as `read_checkpoint`."""
    file = path / "manifest.json"
    try:
        _ordinary_size(file)
        content = read_small(file)
        body = parse_json(content)["content"]
        intact = content == sealed(body)
    except OSError as error:
        raise _unreadable(file, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{file} is damaged ({type(error).__name__}).") from error
    if not intact:
        raise DamagedError(f"{file} is damaged: its content does not match its SHA-256.")
    version = body.get("format_version") if isinstance(body, dict) else None
    if type(version) is int and version > FORMAT_VERSION:
        raise DimeError(
            f"{path} has format version {version}; this release of dime reads up "
            f"to {FORMAT_VERSION}. Upgrade: pip install --upgrade dime-rl"
        )
    return _typed(file, body, Manifest)


def _read_run(file: Path, content: bytes) -> RunState:
    try:
        return _typed(file, parse_json(content), RunState)
    except ValueError as error:
        raise DamagedError(f"{file} is damaged: {error}.") from error


def _typed(file: Path, content: Any, kind: type[Content]) -> Content:
    try:
        return from_table(kind, content)
    except DimeError as error:
        raise DamagedError(f"{file} is damaged: {error}") from error


def _unreadable(file: Path, error: OSError) -> DimeError:
    """Damage if a file is gone or its disk is broken; else a plain refusal.

    What cannot be read now (too many open files, no permission, a share that is away) may be
    whole, and must not be set aside.
    """
    if error.errno in _MISSING_OR_BROKEN:
        return DamagedError(f"{file} is damaged: {error.strerror}.")
    return DimeError(f"{file} cannot be read now: {error.strerror}. It may be whole; try again.")


def _ordinary_size(file: Path) -> int:
    """The size of a file; refuses links, which could lead anywhere, pipes, folders and devices."""
    found = file.lstat()
    if not S_ISREG(found.st_mode):
        raise DamagedError(f"{file} is damaged: not an ordinary file.")
    return found.st_size


@contextmanager
def _opened(file: Path, size: int) -> Iterator[BufferedReader]:
    """The file, which has this size; errors of the disk are explained."""
    try:
        found = _ordinary_size(file)
        if found != size:
            raise DamagedError(f"{file} is damaged: {found} bytes instead of {size}.")
        with file.open("rb") as opened:
            yield opened
    except OSError as error:
        raise _unreadable(file, error) from error
    except MemoryError as error:
        raise DimeError(f"{file} has {size} bytes, too many for the memory.") from error


def _require_sum(file: Path, found: str, expected: str) -> None:
    if found != expected:
        raise DamagedError(f"{file} is damaged: its SHA-256 is not the recorded one.")


def _verified(file: Path, expected: Digest) -> bytes:
    """The content of a file of this size and SHA-256."""
    with _opened(file, expected.bytes) as opened:
        content = opened.read()
    _require_sum(file, digest(content).sha256, expected.sha256)
    return content


def _arrays(file: Path, content: bytes) -> Arrays:
    try:
        return safetensors.numpy.load(content)
    except _NOT_ARRAYS as error:
        raise DamagedError(f"{file} is damaged: no arrays ({error!r:.200}).") from error


def _require(file: Path, found: dict[str, Any], expected: dict[str, Layout]) -> None:
    try:
        require_layout(found, expected, "run")
    except DimeError as error:
        raise DamagedError(f"{file} is damaged: {error}") from error


def _layout_of_episodes(run: RunState, found: Arrays) -> dict[str, Layout]:
    """Of the episodes in progress, which may be of any length."""
    spaces = Spaces.from_json(run.spaces)
    layout = {}
    for seed in run.seeds:
        length = len(np.atleast_1d(found.get(f"{seed}/actions", ())))
        layout[f"{seed}/actions"] = Layout((length, spaces.action_dim), np.dtype("float32"))
        layout[f"{seed}/obs"] = Layout((spaces.obs_dim,), np.dtype("float32"))
        layout[f"{seed}/next_action"] = Layout((spaces.action_dim,), np.dtype("float32"))
    return layout


def _verify_segment(file: Path, segment: Segment, run: RunState) -> None:
    """The whole file's sum; of its content only the header is kept."""
    with _opened(file, segment.bytes) as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    _require_sum(file, found, segment.sha256)
    spaces = Spaces.from_json(run.spaces)
    try:
        with safetensors.safe_open(file, framework="numpy") as content:
            seeds = _saved_seeds(content)
            slices = {name: content.get_slice(name) for name in content.keys()}  # noqa: SIM118
            found = {
                name: Layout(tuple(part.get_shape()), part.get_dtype())
                for name, part in slices.items()
            }
    except OSError as error:
        raise _unreadable(file, error) from error
    except _NOT_ARRAYS as error:
        raise DamagedError(f"{file} is damaged: no transitions ({error!r:.200}).") from error
    if missing := set(run.seeds) - set(seeds):
        raise DamagedError(f"{file} is damaged: it lacks the seeds {sorted(missing)}.")
    rows = (len(seeds), segment.stop - segment.start)
    expected = {
        "obs": Layout((*rows, spaces.obs_dim), "F32"),
        "action": Layout((*rows, spaces.action_dim), "F32"),
        "reward": Layout(rows, "F32"),
        "next_obs": Layout((*rows, spaces.obs_dim), "F32"),
        "terminated": Layout(rows, "BOOL"),
    }
    _require(file, found, expected)


def _saved_seeds(content: Any) -> list[int]:
    seeds = parse_json(content.metadata()["seeds"].encode())
    if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
        raise ValueError("its seeds are none")
    return seeds


def read_rows(file: Path, seeds: list[int]) -> Arrays:
    """A replay segment's arrays for these seeds, stacked in their order."""
    with safetensors.safe_open(file, framework="numpy") as content:
        saved = _saved_seeds(content)
        arrays = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    if saved == seeds:  # the rule, and a copy less
        return arrays
    order = [saved.index(seed) for seed in seeds]
    return {name: array[order] for name, array in arrays.items()}
