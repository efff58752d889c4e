"""The folder of a study: its plan, its trials' run directories, its failures, and its copy."""

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
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
from dime.training.run import Changes, Hooks, resume_run, start_run
from dime.training.run_directory import RunDirectory

_LOCK_WAIT_S = 60.0  # until the process of a node that died is gone too
_SMALL = (".json", ".jsonl", ".txt")


class StudyFolder:
    """Paths and small files of a study; with a URI, also its copy below that URI.

    Runs are always written to a folder of this machine. `pull` and `push` copy them if there is a
    URI, and do nothing otherwise.
    """

    def __init__(self, path: Path, uri: str = ""):
        self.path = path
        self.file = path / STUDY_FILE
        self.failures = path / "failures"
        self.storage = uri or str(path.absolute().parent)
        self._remote: Any = _file_system(f"{uri}/{path.name}") if uri else None
        self._pushed: dict[str, tuple[int, int]] = {}

    @classmethod
    def open(cls, storage: str, name: str) -> "StudyFolder":
        """The folder of a study in a folder, or on storage with a URI, then with a local copy.

        Raises:
            DimeError: a URI of a kind that is not known, or one that does not answer.
        """
        if "://" not in storage:
            return cls(Path(storage) / name)
        return cls(Path(tempfile.mkdtemp(prefix="dime-"), name), storage.rstrip("/"))

    def plan(self, study: Study, source: str, trials: list[Trial]) -> None:
        """Writes what the study is to study.json; trials that have begun stay in the plan.

        Raises:
            DimeError: a trial that has begun has other settings now, study.json is damaged or of a
                newer release, or the folder is a run's or cannot be written.
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
                write_json(self.file, self._content(study, source, trials))
        except OSError as error:
            raise DimeError(
                f"{self.path} cannot be written ({error.strerror or error}). Choose another place "
                "(--storage)."
            ) from error

    def _content(self, study: Study, source: str, trials: list[Trial]) -> dict[str, Any]:
        """Of study.json."""
        names = {trial.name for trial in trials}
        if self.file.exists():
            open_study(self.path)
            begun = [old for old in self.trials() if (self.path / old.name).exists()]
            trials = trials + [old for old in begun if old.name not in names]
        return {
            "format_version": STUDY_FORMAT_VERSION,
            "name": study.name,
            "description": study.description,
            "source": source,
            "retries": study.retries,
            "varied": varied_settings(trials),
            "trials": [{"name": trial.name, "config": trial.config.to_json()} for trial in trials],
        }

    def _refuse_other_settings(self, trial: Trial) -> None:
        folder = self.path / trial.name
        if not (folder / "config.json").is_file():
            return
        begun, wanted = RunConfig.from_json(RunDirectory.open(folder).config()), trial.config
        steps = wanted.training.num_env_steps
        if steps > begun.training.num_env_steps:  # an extension
            begun = replace(begun, training=replace(begun.training, num_env_steps=steps))
        old, new = flatten(asdict(begun)), flatten(asdict(wanted))
        other = [name for name in {**new, **old} if new.get(name) != old.get(name)]
        require(
            not other,
            f"The trial {trial.name} has begun in {self.path} with other settings: "
            + ", ".join(f"{name} {old.get(name)} (now {new.get(name)})" for name in other[:4])
            + ". Give the study another name, choose another place (--storage), or remove that "
            "trial's folder.",
        )

    def trials(self) -> list[Trial]:
        """The trials as study.json has them."""
        try:
            content = json.loads(self.file.read_text("utf-8-sig"))
            planned = [(trial["name"], trial["config"]) for trial in content["trials"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DimeError(f"{self.path} is not a study, or damaged ({error!r}).") from error
        return [Trial(name, RunConfig.from_json(config)) for name, config in planned]

    def is_finished(self, trial: Trial) -> bool:
        """Whether the trial's run has reached its last env step."""
        status = RunDirectory(self.path / trial.name).status()
        env_step = status.get("env_step")
        planned = trial.config.training.num_env_steps
        return (
            status.get("state") == "finished" and isinstance(env_step, int) and env_step >= planned
        )

    def note_failure(self, name: str, text: str | None) -> None:
        """Keeps the traceback of a trial; None if it has not failed after all."""
        file = self.failures / f"{name}.txt"
        if text is None:
            file.unlink(missing_ok=True)
        else:
            self.failures.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    def failure(self, name: str) -> str | None:
        """The traceback of a trial that failed."""
        file = self.failures / f"{name}.txt"
        return file.read_text() if file.is_file() else None

    def reason(self, name: str) -> str:
        """Why a trial has not finished: its traceback, or what its run's status says."""
        status = RunDirectory(self.path / name).status()
        return self.failure(name) or str(status.get("reason") or "no reason is known")

    def pull(self, trial: str) -> None:
        """Brings what the storage has of a trial, and of its failure, into the local folder."""
        own = (f"{trial}/", f"failures/{trial}.txt")
        self._download(lambda name: name.startswith(own))
        self._pushed = {name: _state(self.path / name) for name in self._files_of(trial)}

    def pull_records(self) -> None:
        """Brings the small files, without checkpoints: what figures and reports need."""
        self._download(
            lambda name: (
                name.endswith(_SMALL)
                and "checkpoints/" not in name
                and not name.startswith(".ray/")
            )
        )

    def push(self, trial: str) -> None:
        """Copies what has changed of a trial and its failure; then removes what is gone here."""
        if self._remote is None:
            return
        names = self._files_of(trial)
        for name in sorted(names, key=_place_in_order):
            state = _state(self.path / name)
            if self._pushed.get(name) != state:
                self._upload(name)
                self._pushed[name] = state
        for name in set(self._pushed) - set(names):
            with contextlib.suppress(FileNotFoundError):
                self._remote.delete_file(name)
            del self._pushed[name]

    def push_small(self) -> None:
        """Copies the files of the study itself: its plan, its search, failures."""
        if self._remote is not None:
            for file in [*self.path.glob("*.json"), *self.failures.glob("*.txt")]:
                self._upload(file.relative_to(self.path).as_posix())

    def _download(self, wanted: Callable[[str], bool]) -> None:
        if self._remote is None:
            return
        from pyarrow import fs

        for info in self._remote.get_file_info(fs.FileSelector("", recursive=True)):
            if info.is_file and wanted(info.path):
                place = self.path / info.path
                place.parent.mkdir(parents=True, exist_ok=True)
                with self._remote.open_input_stream(info.path) as stream:
                    place.write_bytes(stream.read())

    def _upload(self, name: str) -> None:
        if "/" in name:
            self._remote.create_dir(name.rpartition("/")[0], recursive=True)
        with self._remote.open_output_stream(name) as stream:
            stream.write((self.path / name).read_bytes())

    def remove(self, name: str) -> None:
        """Removes a folder of the study, from the storage if there is one."""
        if self._remote is None:
            shutil.rmtree(self.path / name, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                self._remote.delete_dir(name)

    def discard_copy(self) -> None:
        """Removes the local copy of what is on other storage."""
        if self._remote is not None:
            shutil.rmtree(self.path.parent, ignore_errors=True)

    def _files_of(self, trial: str) -> list[str]:
        """The files of a trial and its failure, by their names in the study."""
        found = [*(self.path / trial).rglob("*"), self.failures / f"{trial}.txt"]
        files = [file for file in found if file.is_file() and file.name != ".lock"]
        return [file.relative_to(self.path).as_posix() for file in sorted(files)]


def _state(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size


def _place_in_order(name: str) -> int:
    """A checkpoint counts once its manifest is there, a run once its status says finished."""
    return 2 if name.endswith("status.json") else int(name.endswith("manifest.json"))


def _file_system(uri: str) -> Any:
    """The file system whose root is the folder of this URI."""
    from pyarrow import fs  # comes with Ray

    try:
        files, base = fs.FileSystem.from_uri(uri)
        files.create_dir(base, recursive=True)
    except (OSError, ValueError, NotImplementedError) as error:
        raise DimeError(
            f"The storage {uri} cannot be written ({error}). Give a folder, or a URI such as "
            "s3://bucket/path or gs://bucket/path that this machine may write to."
        ) from error
    return fs.SubTreeFileSystem(base, files)


def run_trial(
    folder: Path,
    trial: Trial,
    callback: Callable[[Record], Any] | None = None,
    progress: bool = False,
) -> RunResult | None:
    """Starts or resumes a trial; returns None if it has finished before."""
    study = StudyFolder(folder)
    if study.is_finished(trial):
        return None
    place = folder / trial.name
    hooks = Hooks(callback, progress)
    if not (place / "config.json").is_file():
        for remains in folder.glob(f".{place.name}.*"):  # its making was cut off
            shutil.rmtree(remains, ignore_errors=True)
        return start_run(trial.config, trial.config.env, place, hooks)
    _wait_until_free(RunDirectory(place))
    if study.is_finished(trial):  # by the process that was waited for
        return None
    return resume_run(place, None, Changes(trial.config.training.num_env_steps), hooks)


def _wait_until_free(directory: RunDirectory) -> None:
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            with directory.locked():
                return
        except DimeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
