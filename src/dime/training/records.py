"""Files that a run leaves for people and programs: written whole, read back line by line."""

import errno
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dime.errors import DimeError


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file beside `path` and renames it: a reader meets the old or the new one.

    A number that JSON does not have (NaN, infinity) becomes null.
    """
    write_bytes(path, (json.dumps(_finite(content), indent=2) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file beside `path`, waits until the disk has it, renames it."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # half a file would only fill the disk further
        raise


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

        Raises `OSError` where the disk does not take it.
        """
        line = json.dumps(_finite(record), allow_nan=False) + "\n"
        self._unwritten += line.encode()
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
    """The records of a file, oldest first; a last line that is still being written is left out."""
    if not path.exists():
        return
    with path.open() as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith("\n"):
                continue
            try:
                yield json.loads(line)
            except ValueError as error:
                raise DimeError(f"{path} is damaged: line {number} is no record.") from error


def cut_records(path: Path, size: int, discarded: Path) -> int:
    """Moves what stands behind the first `size` bytes to the end of `discarded`.

    Returns the number of lines moved: records newer than the checkpoint that a run resumes from.
    In a file that is shorter, only a last line that is not whole is moved.
    """
    content = path.read_bytes() if path.exists() else b""
    if len(content) < size:
        size = content.rfind(b"\n") + 1
    tail = content[size:]
    if not tail:
        return 0
    with discarded.open("ab") as file:
        file.write(tail if tail.endswith(b"\n") else tail + b"\n")
        file.flush()
        os.fsync(file.fileno())
    os.truncate(path, size)
    return len(tail.splitlines())
