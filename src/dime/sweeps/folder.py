"""The folder of a study: its plan, its trials' run directories, its failures; also remote."""

import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import filelock

from dime.errors import DimeError, require
from dime.figures.runs import STUDY_FILE, STUDY_FORMAT_VERSION, flatten, open_study
from dime.sweeps.study import Study, Trial, varied_settings
from dime.training.config import RunConfig
from dime.training.listeners import Record
from dime.training.loop import RunResult
from dime.training.records import write_json
from dime.training.run import resume_run, start_run
from dime.training.run_directory import RunDirectory

_LOCK_WAIT_S = 60.0


class StudyFolder:
    """Paths and small files of a study.

    With a URI, runs are still written to a local folder, which `pull` and `push` copy from and to
    the remote one. Without, both do nothing.
    """

    def __init__(self, path: Path, uri: str = ""):
        self.path = path
        self.file = path / STUDY_FILE
        self.storage = uri or str(path.absolute().parent)
        self._remote: Any = None  # the file system whose root is the study's folder
        self._pushed: dict[str, tuple[int, int]] = {}
        if uri:
            from pyarrow import fs  # comes with Ray

            try:
                files, base = fs.FileSystem.from_uri(f"{uri}/{path.name}")
                files.create_dir(base, recursive=True)
            except (OSError, ValueError, NotImplementedError) as error:
                raise DimeError(f"The storage {uri} cannot be written ({error}).") from error
            self._remote = fs.SubTreeFileSystem(base, files)

    @classmethod
    def open(cls, storage: str, name: str) -> "StudyFolder":
        """The study's folder below `storage`, a folder or a URI (then with a local copy).

        Raises:
            DimeError: a URI of an unknown kind, or one that cannot be written.
        """
        if "://" not in storage:
            return cls(Path(storage) / name)
        return cls(Path(tempfile.mkdtemp(prefix="dime-"), name), storage.rstrip("/"))

    def plan(self, study: Study, source: str, trials: list[Trial]) -> None:
        """Writes study.json; trials that have begun stay in the plan.

        Raises:
            DimeError: a trial has begun with other settings, study.json is damaged or of a newer
                release, or the folder is a run's or cannot be written.
        """
        require(
            not (self.path / "config.json").exists(),
            f"{self.path} is a run, no study. Choose another place (--storage) or name.",
        )
        for trial in trials:
            self._refuse_other_settings(trial)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # The jobs of an array all write the plan, and start together.
            with filelock.FileLock(self.path / ".lock", timeout=_LOCK_WAIT_S):
                if self.file.exists():
                    names = {trial.name for trial in trials}
                    begun = [old for old in self.trials() if (self.path / old.name).exists()]
                    trials = trials + [old for old in begun if old.name not in names]
                content = {
                    "format_version": STUDY_FORMAT_VERSION,
                    "name": study.name,
                    "description": study.description,
                    "source": source,
                    "retries": study.retries,
                    "varied": varied_settings(trials),
                    "trials": [{"name": t.name, "config": t.config.to_json()} for t in trials],
                }
                write_json(self.file, content)
        except OSError as error:
            raise DimeError(f"{self.path} cannot be written (--storage): {error}") from error

    def _refuse_other_settings(self, trial: Trial) -> None:
        folder = self.path / trial.name
        if not (folder / "config.json").is_file():
            return
        old = flatten(asdict(RunDirectory.open(folder).run_config()))
        new = flatten(asdict(trial.config))
        other = [name for name in {**new, **old} if new.get(name) != old.get(name)]
        steps = "training.num_env_steps"
        if new[steps] > old[steps]:  # an extension
            other.remove(steps)
        require(
            not other,
            f"The trial {trial.name} has begun in {self.path} with other settings: "
            + ", ".join(f"{name} {old.get(name)} (now {new.get(name)})" for name in other[:4])
            + ". Give the study another name, choose another place (--storage), or remove that "
            "trial's folder.",
        )

    def trials(self) -> list[Trial]:
        """The trials as study.json has them."""
        open_study(self.path)  # refuses a damaged file
        planned = json.loads(self.file.read_text("utf-8-sig"))["trials"]
        return [Trial(t["name"], RunConfig.from_json(t.get("config"))) for t in planned]

    def is_finished(self, trial: Trial) -> bool:
        """Whether the trial's run has reached its last env step."""
        status = RunDirectory(self.path / trial.name).status()
        env_step = status.get("env_step") if status.get("state") == "finished" else None
        return isinstance(env_step, int) and env_step >= trial.config.training.num_env_steps

    def failure(self, name: str) -> Path:
        """The file with the traceback of a trial that failed."""
        return self.path / "failures" / f"{name}.txt"

    def note_failure(self, name: str, text: str) -> None:
        """Writes that file."""
        self.failure(name).parent.mkdir(parents=True, exist_ok=True)
        self.failure(name).write_text(text)

    def reason(self, name: str) -> str:
        """Why a trial has not finished: its traceback, or its run's status."""
        if self.failure(name).is_file():
            return self.failure(name).read_text()
        status = RunDirectory(self.path / name).status()
        return str(status.get("reason") or "no reason is known")

    def pull(self, trial: str) -> None:
        """Copies a remote trial and its failure to the local folder."""
        own = (f"{trial}/", f"failures/{trial}.txt")
        self._download(lambda name: name.startswith(own))
        self._pushed = self._files_of(trial)

    def pull_records(self) -> None:
        """Copies the remote small files, which figures and reports need; no checkpoints."""
        small = re.compile(r"(?!.*checkpoints/|\.ray/).*\.(json|jsonl|txt)")
        self._download(lambda name: small.fullmatch(name) is not None)

    def push(self, trial: str) -> None:
        """Copies a trial's changed files and its failure; then removes those deleted here."""
        if self._remote is None:
            return
        files = self._files_of(trial)
        # A checkpoint counts once its manifest is there, a run once its status says finished.
        last = ("status.json", "manifest.json")
        for name in sorted(files, key=lambda name: name.endswith(last) + name.endswith(last[0])):
            if self._pushed.get(name) != files[name]:
                self._upload(name)
        for name in self._pushed.keys() - files:
            with contextlib.suppress(FileNotFoundError):
                self._remote.delete_file(name)
        self._pushed = files

    def push_small(self) -> None:
        """Copies the study's own files: its plan, its search, its failures."""
        if self._remote is not None:
            for file in [*self.path.glob("*.json"), *self.path.glob("failures/*.txt")]:
                self._upload(file.relative_to(self.path).as_posix())

    def _download(self, wanted: Callable[[str], bool]) -> None:
        if self._remote is None:
            return
        from pyarrow import fs

        for info in self._remote.get_file_info(fs.FileSelector("", recursive=True)):
            if info.is_file and wanted(info.path):
                place = self.path / info.path
                place.parent.mkdir(parents=True, exist_ok=True)
                fs.copy_files(info.path, str(place), self._remote, fs.LocalFileSystem())

    def _upload(self, name: str) -> None:
        from pyarrow import fs

        if "/" in name:
            self._remote.create_dir(name.rpartition("/")[0], recursive=True)
        fs.copy_files(str(self.path / name), name, fs.LocalFileSystem(), self._remote)

    def remove(self, name: str) -> None:
        """Removes a folder of the study, the remote one if there is one."""
        if self._remote is None:
            shutil.rmtree(self.path / name, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                self._remote.delete_dir(name)

    def discard_copy(self) -> None:
        """Removes the local copy of a remote folder."""
        if self._remote is not None:
            shutil.rmtree(self.path.parent, ignore_errors=True)

    def _files_of(self, trial: str) -> dict[str, tuple[int, int]]:
        """Time and size of the files of a trial and its failure, by their names in the study."""
        states = {}
        for file in sorted([*(self.path / trial).rglob("*"), self.failure(trial)]):
            if file.is_file() and file.name != ".lock":
                stat = file.stat()
                states[file.relative_to(self.path).as_posix()] = stat.st_mtime_ns, stat.st_size
        return states


def run_trial(
    folder: Path,
    trial: Trial,
    callback: Callable[[Record], Any] | None = None,
    progress: bool = False,
) -> RunResult | None:
    """Starts or resumes a trial; returns None if it has finished already."""
    place = folder / trial.name
    if not (place / "config.json").is_file():
        for remains in folder.glob(f".{place.name}.*"):  # its creation was cut off
            shutil.rmtree(remains, ignore_errors=True)
        return start_run(trial.config, trial.config.env, place, callback, progress)
    # Wait until the process of a node that died is gone; `resume_run` refuses if it stays.
    with contextlib.suppress(filelock.Timeout), filelock.FileLock(place / ".lock", _LOCK_WAIT_S):
        pass
    if StudyFolder(folder).is_finished(trial):
        return None
    length = {"num_env_steps": trial.config.training.num_env_steps}
    return resume_run(place, None, length, callback, progress)
