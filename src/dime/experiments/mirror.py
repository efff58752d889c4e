"""Run directories on storage that is no folder: copied there at each checkpoint, and back."""

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
        """Brings what the storage has of a trial into its local folder."""
        self._pull(f"{study.name}/{trial}", study / trial, small_only=False)

    def pull_records(self, study: str) -> None:
        """Brings a study's small files, without checkpoints: what figures and reports need."""
        self._pull(study, self.local / study, small_only=True)

    def push(self, study: Path, trial: str) -> None:
        """Copies what has changed of a trial and its failure; then removes what is gone here."""
        if not self.uri:
            return
        files, base = self._files()
        local = {
            file.relative_to(study).as_posix(): file
            for place in (study / trial, study / "failures" / f"{trial}.txt")
            for file in ([place] if place.is_file() else sorted(place.rglob("*")))
            if file.is_file() and ".lock" not in file.name
        }
        # A checkpoint counts once its manifest is there: manifests last.
        for name in sorted(local, key=lambda name: name.endswith("manifest.json")):
            stat = local[name].stat()
            state = (stat.st_mtime_ns, stat.st_size)
            if self._pushed.get(name) != state:
                place = f"{base}/{study.name}/{name}"
                files.create_dir(place.rpartition("/")[0], recursive=True)
                with files.open_output_stream(place) as stream:
                    stream.write(local[name].read_bytes())
                self._pushed[name] = state
        for name in set(self._pushed) - set(local):
            files.delete_file(f"{base}/{study.name}/{name}")
            del self._pushed[name]

    def _pull(self, name: str, target: Path, small_only: bool) -> None:
        if not self.uri:
            return
        from pyarrow import fs

        files, base = self._files()
        selector = fs.FileSelector(f"{base}/{name}", recursive=True, allow_not_found=True)
        for info in files.get_file_info(selector):
            relative = info.path.removeprefix(f"{base}/{name}/")
            wanted = relative.endswith(_SMALL) and "checkpoints/" not in relative
            if info.type != fs.FileType.File or (small_only and not wanted) or ".ray/" in relative:
                continue
            place = target / relative
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
