"""Files that a run leaves for people and programs: written whole, read back line by line."""

import errno
import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from dime.errors import DimeError

LARGEST_JSON = 2**25
"""Bytes that a JSON file or a line of records may have; what is larger is not read."""


def parse_json(content: bytes) -> Any:
    """The value of a JSON text; editors may put a byte-order mark before it.

    Raises:
        ValueError: not JSON, a name twice in a table, NaN or infinity, or nested too deeply.
    """
    try:
        return json.loads(
            content.decode("utf-8-sig"), object_pairs_hook=_table, parse_constant=_refuse_constant
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name appears twice in a table")
    return table


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def read_small(path: Path) -> bytes:
    """The content of a file that holds JSON.

    Raises:
        OSError: it cannot be read.
        ValueError: no ordinary file, or a large one.
    """
    if not path.is_file():  # opening a pipe would wait for ever
        raise ValueError("not a file")
    with path.open("rb") as file:
        content = file.read(LARGEST_JSON + 1)
    if len(content) > LARGEST_JSON:
        raise ValueError(f"larger than {LARGEST_JSON} bytes")
    return content


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises what `read_small` and `parse_json` do."""
    return parse_json(read_small(path))


def signed(content: dict[str, Any]) -> dict[str, Any]:
    """A table with the SHA-256 of all its other entries as the last one."""
    content = _finite({name: value for name, value in content.items() if name != "sha256"})
    text = json.dumps(content, sort_keys=True)
    return {**content, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def require_writable(file: Path) -> None:
    """Raises `DimeError` if a file has no folder to go to: its content may take minutes."""
    if not os.access(file.parent, os.W_OK | os.X_OK):
        raise DimeError(f"{file} cannot be written: {file.parent} is no folder to write to.")


def write_json(path: Path, content: Any) -> None:
    """Replaces a JSON file at once: a reader meets the old or the new one.

    A number that JSON does not have (NaN, infinity) becomes null.
    """
    write_bytes(path, (json.dumps(_finite(content), indent=2) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file beside `path`, waits until the disk has it, renames it."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            _write_all(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):  # half a file would only fill the disk further
            temporary.unlink(missing_ok=True)
        raise


def _write_all(descriptor: int, content: bytes) -> None:
    """Writes until the disk has taken everything: it may take a part at a time."""
    left = memoryview(content)
    while left:
        taken = os.write(descriptor, left)
        if taken == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left = left[taken:]


def sync_folder(folder: Path) -> None:
    """Waits until the disk has the folder's entries."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class RecordFile:
    """A file of one JSON object per line; each record is one write.

    Records that the disk does not take are kept, and written before the next one.
    """

    def __init__(self, path: Path):
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._unwritten = b""

    def append(self, record: dict[str, Any]) -> None:
        """Adds a line. A number that JSON does not have (NaN, infinity) becomes null.

        Raises `OSError` if the disk does not take it.
        """
        self._unwritten += (json.dumps(_finite(record)) + "\n").encode()
        self._write()

    def _write(self) -> None:
        if not self._unwritten:
            return
        size = os.fstat(self._descriptor).st_size
        if os.write(self._descriptor, self._unwritten) < len(self._unwritten):
            os.ftruncate(self._descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self._unwritten = b""

    def sync(self) -> int:
        """Waits until the disk has every record; returns the file's size in bytes."""
        self._write()
        os.fsync(self._descriptor)
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file, oldest first; a last line that is still being written is left out.

    Raises:
        DimeError: not a file, or a line that is no record.
    """
    if not path.exists():
        return
    if not path.is_file():
        raise DimeError(f"{path} is damaged: not a file.")
    with path.open("rb") as file:
        lines = iter(lambda: file.readline(LARGEST_JSON), b"")
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n") and len(line) < LARGEST_JSON:
                return
            try:
                record = parse_json(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                raise DimeError(f"{path} is damaged: line {number} is no record.")
            yield record


def cut_records(path: Path, size: int, discarded: Path) -> int:
    """Moves what follows the first `size` bytes to the end of `discarded`.

    Returns the number of lines moved: records newer than the checkpoint that a run resumes from.
    In a file that is shorter, only a last line that is not whole is moved.
    """
    if not path.exists():
        return 0
    with path.open("rb") as file:
        if path.stat().st_size < size:
            size = file.read().rfind(b"\n") + 1
        file.seek(size)
        tail = file.read()
    if not tail:
        return 0
    with discarded.open("ab") as other:
        other.write(tail if tail.endswith(b"\n") else tail + b"\n")
        other.flush()
        os.fsync(other.fileno())
    os.truncate(path, size)
    return len(tail.removesuffix(b"\n").split(b"\n"))
