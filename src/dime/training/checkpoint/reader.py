"""Reading a checkpoint: sizes before contents, SHA-256 before use, then the layout."""

import errno
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from stat import S_ISREG
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from dime.errors import DimeError, describe, require
from dime.training.checkpoint import (
    Arrays,
    Checkpoint,
    DamagedError,
    Digest,
    Manifest,
    RunState,
    Segment,
    require_layout,
)
from dime.training.config import TrainingConfig, from_table, require_version
from dime.training.records import parse_json, read_small
from dime.training.replay import Replay, empty_replay, within_range
from dime.types import EnvSpec

_WRONG_CONTENT = (
    DimeError,
    safetensors.SafetensorError,
    *(ValueError, KeyError, TypeError, OverflowError),
)
_MISSING_OR_BROKEN = (errno.ENOENT, errno.ENOTDIR, errno.EIO)
_DTYPES = {"F32": np.dtype("float32"), "BOOL": np.dtype(bool)}


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
    with _explained(path / "run.json"):
        run = from_table(RunState, parse_json(contents["run.json"]))
        stop = manifest.replay[-1].stop if manifest.replay else 0
        require(stop == run.env_step, "its env step is not where the replay ends.")
    with _explained(path / "state.safetensors"):
        state = safetensors.numpy.load(contents["state.safetensors"])
    with _explained(path / "episodes.safetensors"):
        episodes = safetensors.numpy.load(contents["episodes.safetensors"])
        if not run.on_device:  # otherwise the environment knows the layout when the run continues
            require_layout(episodes, _layout_of_episodes(run, episodes), "run")
    files = []
    for segment in manifest.replay if replay_folder else []:
        file = (replay_folder or path) / segment.file
        _verify_segment(file, segment, run)
        files.append((file, segment.start))
    sha256 = manifest.files["state.safetensors"].sha256
    return Checkpoint(path, state, episodes, run, manifest.replay, files, sha256)


def read_manifest(path: Path) -> Manifest:
    """The verified content of a checkpoint's manifest.json. Raises as `read_checkpoint`."""
    file = path / "manifest.json"
    with _explained(file):
        _require_ordinary(file)
        content = read_small(file)
        body = parse_json(content)["content"]
        require(content == sealed(body), "its content does not match its SHA-256.")
        version = body["format_version"]
    if isinstance(version, int):
        require_version(version, path)
    with _explained(file):
        return from_table(Manifest, body)


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Inside, any error about a file becomes a `DimeError` that names it.

    Only damage is a `DamagedError`: what cannot be read now may be whole, and is not set aside.
    """
    try:
        yield
    except _WRONG_CONTENT as error:
        reason = str(error) if isinstance(error, DimeError) else f"{describe(error):.200}."
        raise DamagedError(f"{file} is damaged: {reason}") from error
    except MemoryError as error:
        size = file.stat().st_size
        raise DimeError(f"{file} has {size} bytes, too many for the memory.") from error
    except OSError as error:
        if error.errno in _MISSING_OR_BROKEN:
            raise DamagedError(f"{file} is damaged: {error.strerror}.") from error
        raise DimeError(
            f"{file} cannot be read now: {error.strerror}. It may be whole; try again."
        ) from error


def _require_ordinary(file: Path, size: int | None = None) -> None:
    """Refuses another size, and links, which could lead anywhere, pipes, folders and devices."""
    found = file.lstat()
    require(S_ISREG(found.st_mode), "not an ordinary file.")
    require(size in (None, found.st_size), f"{found.st_size} bytes instead of {size}.")


def _verified(file: Path, expected: Digest) -> bytes:
    with _explained(file):
        _require_ordinary(file, expected.bytes)
        content = file.read_bytes()
        require(digest(content) == expected, "its SHA-256 is not the recorded one.")
        return content


def _floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.float32)


def _layout_of_episodes(run: RunState, found: Arrays) -> dict[str, Any]:
    """Of the episodes in progress, which may be of any length."""
    layout = {}
    for seed in run.seeds:
        length = len(np.atleast_1d(found.get(f"{seed}/actions", ())))
        layout[f"{seed}/actions"] = _floats(length, run.spaces.action_dim)
        layout[f"{seed}/obs"] = _floats(run.spaces.obs_dim)
        layout[f"{seed}/next_action"] = _floats(run.spaces.action_dim)
    return layout


def _verify_segment(file: Path, segment: Segment, run: RunState) -> None:
    """Reads the whole file for its sum; of its content only the header is kept."""
    with _explained(file):
        _require_ordinary(file, segment.bytes)
        with file.open("rb") as opened:
            found_sum = hashlib.file_digest(opened, "sha256").hexdigest()
        require(found_sum == segment.sha256, "its SHA-256 is not the recorded one.")
        with safetensors.safe_open(file, framework="numpy") as content:
            seeds = _saved_seeds(content)
            slices = {name: content.get_slice(name) for name in content.keys()}  # noqa: SIM118
            found = {
                name: jax.ShapeDtypeStruct(part.get_shape(), _DTYPES[part.get_dtype()])
                for name, part in slices.items()
            }
        missing = set(run.seeds) - set(seeds)
        require(not missing, f"it lacks the seeds {sorted(missing)}.")
        rows = (len(seeds), segment.stop - segment.start)
        expected = {
            "obs": _floats(*rows, run.spaces.obs_dim),
            "action": _floats(*rows, run.spaces.action_dim),
            "reward": _floats(*rows),
            "next_obs": _floats(*rows, run.spaces.obs_dim),
            "terminated": jax.ShapeDtypeStruct(rows, bool),
        }
        require_layout(found, expected, "run")


def _saved_seeds(content: Any) -> list[int]:
    seeds = parse_json(content.metadata()["seeds"].encode())
    if not all(type(seed) is int for seed in seeds):
        raise ValueError("its seeds are not numbers")
    return seeds


def read_rows(file: Path, seeds: list[int]) -> Arrays:
    """A replay segment's arrays for these seeds, stacked in their order."""
    with safetensors.safe_open(file, framework="numpy") as content:
        saved = _saved_seeds(content)
        arrays = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    if saved == seeds:  # the usual case; saves a copy
        return arrays
    order = [saved.index(seed) for seed in seeds]
    return {name: array[order] for name, array in arrays.items()}


def load_replay(
    files: list[tuple[Path, int]], seeds: list[int], config: TrainingConfig, spec: EnvSpec
) -> Replay:
    """The rings of these seeds from `files` with the number of each one's first transition."""
    empty = jax.eval_shape(lambda: empty_replay(config, spec))
    rings = {
        name: np.zeros((len(seeds), *ring.shape), ring.dtype)
        for name, ring in empty._asdict().items()
    }
    for file, start in files:
        arrays = read_rows(file, seeds)
        for name, ring in rings.items():
            _put(ring, arrays[name], start % config.effective_capacity)
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
        place = max(-begin, 0)
        # The run that wrote them may have kept a larger range.
        ring[:, place : place + part.shape[1]] = within_range(ring.dtype, part)
