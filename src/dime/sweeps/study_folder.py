"""The folder of a study: its plan, its trials' run directories, what went wrong."""

import json
import shutil
import time
from collections.abc import Callable
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
_EXTENDED = "training.num_env_steps"


class StudyFolder:
    """Paths and small files of a study."""

    def __init__(self, path: Path):
        self.path = path
        self.file = path / STUDY_FILE
        self.failures = path / "failures"

    def trial_folder(self, name: str) -> Path:
        """The run directory of a trial."""
        return self.path / name

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
            trials = trials + [
                old
                for old in self.trials()
                if old.name not in names and self.trial_folder(old.name).exists()
            ]
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
        folder = self.trial_folder(trial.name)
        if not (folder / "config.json").is_file():
            return
        begun = flatten(RunConfig.from_json(RunDirectory.open(folder).config()).to_json())
        wanted = flatten(trial.config.to_json())
        names = dict.fromkeys([*wanted, *begun])
        other = [name for name in names if wanted.get(name) != begun.get(name)]
        if wanted[_EXTENDED] >= begun[_EXTENDED]:
            other = [name for name in other if name != _EXTENDED]
        require(
            not other,
            f"The trial {trial.name} has begun in {self.path} with other settings: "
            + ", ".join(f"{name} {begun.get(name)} (now {wanted.get(name)})" for name in other[:4])
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
        status = RunDirectory(self.trial_folder(trial.name)).status()
        env_step = status.get("env_step")
        planned = trial.config.training.num_env_steps
        return (
            status.get("state") == "finished" and isinstance(env_step, int) and env_step >= planned
        )

    def note_failure(self, name: str, text: str) -> None:
        """Keeps the traceback of a trial."""
        self.failures.mkdir(parents=True, exist_ok=True)
        (self.failures / f"{name}.txt").write_text(text)

    def failure(self, name: str) -> str | None:
        """The traceback of a trial that failed."""
        file = self.failures / f"{name}.txt"
        return file.read_text() if file.is_file() else None

    def reason(self, name: str) -> str:
        """Why a trial has not finished, as its run's status has it."""
        status = RunDirectory(self.trial_folder(name)).status()
        return str(status.get("reason") or "no reason is known")

    def forget_failure(self, name: str) -> None:
        """The trial has finished after all."""
        (self.failures / f"{name}.txt").unlink(missing_ok=True)


def run_trial(
    folder: Path,
    trial: Trial,
    callback: Callable[[Record], Any] | None = None,
    progress: bool = False,
) -> RunResult | None:
    """Begins a trial, resumes it, or does nothing where it has finished: then None."""
    study = StudyFolder(folder)
    if study.is_finished(trial):
        return None
    place = study.trial_folder(trial.name)
    hooks = Hooks(callback, progress)
    if not (place / "config.json").is_file():
        _remove_remains(place)
        return start_run(trial.config, trial.config.env, place, hooks)
    _wait_until_free(RunDirectory(place))
    if study.is_finished(trial):  # by the process that was waited for
        return None
    return resume_run(place, None, Changes(trial.config.training.num_env_steps), hooks)


def _remove_remains(place: Path) -> None:
    """A folder without config.json, empty of anything of worth: its making was cut off."""
    for remains in place.parent.glob(f".{place.name}.*"):
        shutil.rmtree(remains, ignore_errors=True)


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
