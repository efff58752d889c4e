"""Run directories on storage that is no folder: copied there at each record, and back."""

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from dime.errors import DimeError

_SMALL = (".json", ".jsonl", ".txt")


class Mirror:
    """Where studies are kept: a folder, or a URI with a local folder that is copied to it.

    Runs are written locally in any case. `pull` and `push` copy a trial where `uri` is not empty,
    and do nothing otherwise.
    """

    def __init__(self, local: Path, uri: str = ""):
        self.local, self.uri = local, uri
        self._pushed: dict[str, tuple[int, int]] = {}

    @classmethod
    def of(cls, storage: str) -> "Mirror":
        """The storage that a user names.

        Raises:
            DimeError: a URI of a kind that is not known, or one that does not answer.
        """
        if "://" not in storage:
            return cls(Path(storage))
        mirror = cls.of_uri(storage)
        mirror._files()
        return mirror

    @classmethod
    def of_uri(cls, uri: str) -> "Mirror":
        """The same in a worker: its local folder is one of its own; "" for no URI."""
        local = Path(tempfile.mkdtemp(prefix="dime-")) if uri else Path()
        return cls(local, uri)

    def target(self, study: str) -> str:
        """The study's place as Ray takes it."""
        return f"{self.uri.rstrip('/')}/{study}" if self.uri else str(self.local.absolute() / study)

    def folder(self, study: Path) -> Path:
        """The study's folder in this process."""
        return self.local / study.name if self.uri else study

    def pull(self, study: Path, trial: str) -> None:
        """Brings what the storage has of a trial, and of its failure, into the local folder."""
        failure = f"failures/{trial}.txt"
        for name in (trial, failure):
            self._pull(f"{study.name}/{name}", study / name, small_only=False)
        self._pushed = {name: _state(file) for name, file in _files_of(study, trial).items()}

    def pull_records(self, study: str) -> None:
        """Brings a study's small files, without checkpoints: what figures and reports need."""
        self._pull(study, self.local / study, small_only=True)

    def push(self, study: Path, trial: str) -> None:
        """Copies what has changed of a trial and its failure; then removes what is gone here."""
        if not self.uri:
            return
        files, base = self._files()
        local = _files_of(study, trial)
        for name in sorted(local, key=_place_in_order):
            state = _state(local[name])
            if self._pushed.get(name) != state:
                self._write(files, f"{base}/{study.name}/{name}", local[name])
                self._pushed[name] = state
        for name in set(self._pushed) - set(local):
            with contextlib.suppress(FileNotFoundError):
                files.delete_file(f"{base}/{study.name}/{name}")
            del self._pushed[name]

    def push_small(self, study: Path) -> None:
        """Copies the files of the study itself: its plan, its search, failures."""
        if not self.uri:
            return
        files, base = self._files()
        for file in [*study.glob("*.json"), *study.glob("failures/*.txt")]:
            self._write(files, f"{base}/{study.name}/{file.relative_to(study).as_posix()}", file)

    def remove(self, place: str) -> None:
        """Removes a folder that `target` is above of."""
        if not self.uri:
            shutil.rmtree(place, ignore_errors=True)
            return
        files, base = self._files()
        with contextlib.suppress(OSError):
            files.delete_dir(base + place.removeprefix(self.uri.rstrip("/")))

    def discard(self) -> None:
        """Removes a worker's own folder."""
        if self.uri:
            shutil.rmtree(self.local, ignore_errors=True)

    def _write(self, files: Any, place: str, file: Path) -> None:
        files.create_dir(place.rpartition("/")[0], recursive=True)
        with files.open_output_stream(place) as stream:
            stream.write(file.read_bytes())

    def _pull(self, name: str, target: Path, small_only: bool) -> None:
        if not self.uri:
            return
        from pyarrow import fs

        files, base = self._files()
        found = files.get_file_info(f"{base}/{name}")
        if found.type == fs.FileType.File:
            infos = [found]
        else:
            selector = fs.FileSelector(f"{base}/{name}", recursive=True, allow_not_found=True)
            infos = files.get_file_info(selector)
        for info in infos:
            relative = info.path.removeprefix(f"{base}/{name}").removeprefix("/")
            wanted = relative.endswith(_SMALL) and "checkpoints/" not in relative
            if info.type != fs.FileType.File or (small_only and not wanted) or ".ray/" in relative:
                continue
            place = target / relative if relative else target
            place.parent.mkdir(parents=True, exist_ok=True)
            with files.open_input_stream(info.path) as stream:
                place.write_bytes(stream.read())

    def _files(self) -> tuple[Any, str]:
        """The file system of the URI, and the path in it."""
        from pyarrow import fs

        try:
            files, base = fs.FileSystem.from_uri(self.uri)
            files.create_dir(base, recursive=True)
        except (OSError, ValueError, NotImplementedError) as error:
            raise DimeError(
                f"The storage {self.uri} cannot be written ({error}). Give a folder, or a URI such "
                "as s3://bucket/path or gs://bucket/path that this machine may write to."
            ) from error
        return files, base


def _files_of(study: Path, trial: str) -> dict[str, Path]:
    """The files of a trial and its failure, by their names in the study."""
    places = [study / trial, study / "failures" / f"{trial}.txt"]
    found = [file for place in places for file in ([place] if place.is_file() else _below(place))]
    return {file.relative_to(study).as_posix(): file for file in found if file.name != ".lock"}


def _below(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*")) if file.is_file()]


def _state(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size


def _place_in_order(name: str) -> int:
    """A checkpoint counts once its manifest is there, a run once its status says finished."""
    return 2 if name.endswith("status.json") else int(name.endswith("manifest.json"))
