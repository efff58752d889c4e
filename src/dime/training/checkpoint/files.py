"""Reading the files of a checkpoint: sizes before contents, SHA-256 before use, then the layout."""

import errno
import hashlib
import json
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from dime.envs.spaces import Spaces
from dime.errors import DimeError
from dime.training.checkpoint.schema import MANIFEST, are_seeds, is_whole, misfit, run_misfit
from dime.training.records import parse_json, read_small

Arrays = dict[str, np.ndarray]
Layout = dict[str, tuple[str, tuple[int | None, ...]]]
"""Of arrays by name: safetensors' word for the dtype, and the shape; None: any length."""

_NOT_ARRAYS = (safetensors.SafetensorError, ValueError, KeyError, TypeError, OverflowError)
_WORDS = {"float32": "F32", "bool": "BOOL"}


class DamagedError(DimeError):
    """A file of a checkpoint is missing or is not what was written."""


_MISSING_OR_BROKEN = (errno.ENOENT, errno.ENOTDIR, errno.EIO)


def unreadable(file: Path, error: OSError) -> DimeError:
    """Damage where a file is gone or its disk is broken; else a plain refusal.

    What cannot be read now (too many open files, no permission, a share that is away) may be whole,
    and is not to be set aside.
    """
    if error.errno in _MISSING_OR_BROKEN:
        return DamagedError(f"{file} is damaged: {error.strerror}.")
    return DimeError(f"{file} cannot be read now: {error.strerror}. It may be whole; try again.")


def digest(content: bytes) -> dict[str, Any]:
    """What a manifest says of a file."""
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def encode(content: Any) -> bytes:
    """The one way in which a checkpoint's JSON is written."""
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def read_manifest(path: Path, newest_format: int) -> dict[str, Any]:
    """The verified content of a checkpoint's manifest.json.

    Raises:
        DamagedError: it is not what was written.
        DimeError: it was written by a newer release.
    """
    file = path / "manifest.json"
    try:
        _require_ordinary(file)
        content = read_small(file)
        body = parse_json(content)["content"]
        intact = content == encode({"content": body, **digest(encode(body))})
    except OSError as error:
        raise unreadable(file, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{file} is damaged ({type(error).__name__}).") from error
    if not intact:
        raise DamagedError(f"{file} is damaged: its content does not match its SHA-256.")
    version = body.get("format_version") if isinstance(body, dict) else None
    if not is_whole(version):
        raise DamagedError(f"{file} is damaged: it has no format version.")
    if version > newest_format:
        raise DimeError(
            f"{path} has format version {version}; this release of dime reads up "
            f"to {newest_format}. Upgrade: pip install --upgrade dime-rl"
        )
    if wrong := misfit(body, MANIFEST):
        raise DamagedError(f"{file} is damaged: its '{wrong}' is not as dime writes it.")
    return body


def read_verified(file: Path, expected: dict[str, Any]) -> bytes:
    """A file's content, which has the size and the SHA-256 of its manifest.

    Raises:
        DamagedError: it has not, or is no ordinary file.
        DimeError: there is not the memory for it.
    """
    try:
        _require_size(file, expected["bytes"])
        content = file.read_bytes()
    except OSError as error:
        raise unreadable(file, error) from error
    except MemoryError as error:
        raise DimeError(
            f"{file} has {expected['bytes']} bytes, too many for the memory."
        ) from error
    if hashlib.sha256(content).hexdigest() != expected["sha256"]:
        raise DamagedError(f"{file} is damaged: its SHA-256 is not the recorded one.")
    return content


def verify(file: Path, expected: dict[str, Any]) -> None:
    """As `read_verified`, for a file of any size, whose content is not kept."""
    try:
        _require_size(file, expected["bytes"])
        with file.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(file, error) from error
    if found != expected["sha256"]:
        raise DamagedError(f"{file} is damaged: its SHA-256 is not the recorded one.")


def _require_ordinary(file: Path) -> int:
    """The size of a file; refuses links, which could lead anywhere, pipes, folders and devices."""
    found = file.lstat()
    if not S_ISREG(found.st_mode):
        raise DamagedError(f"{file} is damaged: not an ordinary file.")
    return found.st_size


def _require_size(file: Path, size: int) -> None:
    found = _require_ordinary(file)
    if found != size:
        raise DamagedError(f"{file} is damaged: {found} bytes instead of {size}.")


def read_run(file: Path, content: bytes) -> dict[str, Any]:
    """The content of a run.json, every field as the loop leaves it."""
    try:
        run = parse_json(content)
    except ValueError as error:
        raise DamagedError(f"{file} is damaged: {error}.") from error
    if wrong := run_misfit(run):
        raise DamagedError(f"{file} is damaged: its '{wrong}' is not as dime writes it.")
    return run


def read_arrays(file: Path, content: bytes) -> Arrays:
    """The arrays of a safetensors file's content."""
    try:
        return safetensors.numpy.load(content)
    except _NOT_ARRAYS as error:
        raise DamagedError(f"{file} is damaged: no arrays ({error!r:.200}).") from error


def require_episodes(file: Path, arrays: Arrays, run: dict[str, Any]) -> None:
    """Refuses arrays that are not those of the seeds' episodes in progress.

    What environments on the device keep is compared with the task itself when a run goes on.
    """
    if "on_device" in run:
        return
    spaces = Spaces.from_json(run["spaces"])
    layout: Layout = {}
    for seed in run["seeds"]:
        layout[f"{seed}/actions"] = "F32", (None, spaces.action_dim)
        layout[f"{seed}/obs"] = "F32", (spaces.obs_dim,)
        layout[f"{seed}/next_action"] = "F32", (spaces.action_dim,)
    found = {name: (_WORDS.get(str(a.dtype), "?"), a.shape) for name, a in arrays.items()}
    _require_layout(file, found, layout)


def require_segment(file: Path, length: int, run: dict[str, Any]) -> None:
    """Refuses a replay segment that does not hold `length` transitions of each of the run's seeds.

    Only its header is read.
    """
    spaces = Spaces.from_json(run["spaces"])
    try:
        with safetensors.safe_open(file, framework="numpy") as content:
            seeds = _saved_seeds(content)
            slices = {name: content.get_slice(name) for name in content.keys()}  # noqa: SIM118
            found = {
                name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()
            }
    except OSError as error:
        raise unreadable(file, error) from error
    except _NOT_ARRAYS as error:
        raise DamagedError(f"{file} is damaged: no transitions ({error!r:.200}).") from error
    if missing := set(run["seeds"]) - set(seeds):
        raise DamagedError(f"{file} is damaged: it lacks the seeds {sorted(missing)}.")
    rows = (len(seeds), length)
    layout: Layout = {
        "obs": ("F32", (*rows, spaces.obs_dim)),
        "action": ("F32", (*rows, spaces.action_dim)),
        "reward": ("F32", rows),
        "next_obs": ("F32", (*rows, spaces.obs_dim)),
        "terminated": ("BOOL", rows),
    }
    _require_layout(file, found, layout)


def _require_layout(file: Path, found: Layout, expected: Layout) -> None:
    if odd := sorted(set(found) ^ set(expected)):
        raise DamagedError(
            f"{file} is damaged: its arrays are others than dime's; first: {odd[0]}."
        )
    for name, (dtype, shape) in expected.items():
        found_dtype, found_shape = found[name]
        fits = len(shape) == len(found_shape) and all(
            wanted in (None, size) for wanted, size in zip(shape, found_shape, strict=True)
        )
        if found_dtype != dtype or not fits:
            raise DamagedError(
                f"{file} is damaged: its {name} is {found_dtype}{list(found_shape)} instead of "
                f"{dtype}{list(shape)}."
            )


def _saved_seeds(content: Any) -> list[int]:
    seeds = parse_json(content.metadata()["seeds"].encode())
    if not are_seeds(seeds):
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
