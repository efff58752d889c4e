"""A study's trials in Ray Tune: the cluster, what runs in its workers, what is shown of it."""

import contextlib
import logging
import os
import socket
import time
import traceback
import uuid
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import ray
import rich.console
import rich.progress
from ray import tune

from dime.errors import DimeError, require
from dime.sweeps.folder import StudyFolder, run_trial
from dime.sweeps.study import Study, Trial
from dime.training.listeners import Record, return_text
from dime.training.records import read_records
from dime.training.run_directory import RunDirectory

_ANSWER_WITHIN_S = 5.0
_LINE_EVERY_S = 30.0
_ALONE = {
    "address": "local",  # does not join a cluster of others on this machine
    "_node_ip_address": "127.0.0.1",
    "include_dashboard": False,
    "object_store_memory": 80 * 2**20,  # trials exchange nothing but numbers
}
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # Or Ray warns that it will hide GPUs from trials that declare none, which do not look.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connects to Ray, or starts it for this process alone on this machine."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if ray.is_initialized():  # by the caller
        yield
        return
    options: dict[str, Any] = {"address": address} if address is not None else _ALONE
    try:
        if address is not None:
            _require_answer(address)
        with warnings.catch_warnings():
            # JAX warns of any fork; Ray's children run other programs at once.
            warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        place = f"The cluster at {address}" if address else "Ray on this machine"
        raise DimeError(
            f"{place} does not answer ({error}). Start it (ray start --head), look at its address "
            "(ray status), or leave --address out to use this machine."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Ray itself would wait for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), _ANSWER_WITHIN_S).close()


def _require_resources(study: Study) -> None:
    """Raises `DimeError` if no trial could ever start; Ray would wait for ever."""
    available = ray.cluster_resources()
    for what, wanted in {"CPU": study.cpus, "GPU": study.gpus}.items():
        require(
            wanted <= available.get(what, 0),
            f"A trial of {study.name} asks for {wanted:g} {what}s, and there are "
            f"{available.get(what, 0):g}. Change {what.lower()}s in the study, use its small "
            "variant (--variant laptop), or name a cluster (--address).",
        )


@dataclass(frozen=True)
class Job:
    """What a worker needs in addition to Ray's parameters of a trial.

    Attributes:
        study: what the trial belongs to.
        storage: where the study's folder is, a path or a URI.
        trial_of: the trial with these parameters.
        mode: evaluation mode that a search maximises; None outside searches.
    """

    study: Study
    storage: str
    trial_of: Callable[[Mapping[str, Any]], Trial]
    mode: str | None = None


def run_grid(study: Study, folder: StudyFolder, trials: list[Trial], progress: bool) -> None:
    """Runs the trials that have not finished."""
    unfinished = {trial.name: trial for trial in trials if not folder.is_finished(trial)}
    if not unfinished:
        return
    job = Job(study, folder.storage, lambda parameters: unfinished[parameters["trial"]])
    finished = len(trials) - len(unfinished)
    display = SweepProgress(job, unfinished, finished, len(trials), quiet=not progress)
    run_trials(job, folder, {"trial": tune.grid_search(list(unfinished))}, [display])


def run_trials(
    job: Job,
    folder: StudyFolder,
    parameters: dict[str, Any],
    callbacks: list[Any],
    **tune_options: Any,
) -> None:
    """Hands trials to Ray Tune and waits for them; the first callback is a `SweepProgress`.

    Ray's own state, which is pickled, goes to a new place each time and is thrown away unread.
    Raises `KeyboardInterrupt` if Ctrl-C stopped it, from which Ray returns as if all were well.
    """
    display = callbacks[0]
    study = job.study
    _require_resources(study)
    folder.push_small()
    resources = {"cpu": study.cpus} | ({"gpu": study.gpus} if study.gpus else {})
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(train_trial, job=job), resources),
        param_space=parameters,
        tune_config=tune.TuneConfig(
            trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}", **tune_options
        ),
        run_config=tune.RunConfig(
            name=uuid.uuid4().hex,
            storage_path=f"{folder.storage}/{study.name}/.ray",
            failure_config=tune.FailureConfig(max_failures=study.retries),
            callbacks=callbacks,
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        folder.remove(".ray")
        for name, error in display.errors.items():
            if folder.failure(name) is None:  # its worker died and left no word
                folder.note_failure(name, error)
        folder.push_small()
    if display.interrupted:
        raise KeyboardInterrupt


def train_trial(parameters: Mapping[str, Any], job: Job) -> None:
    """Runs in a worker of Ray: starts or resumes a trial, and reports its records."""
    _choose_device(job.study.gpus)
    trial = job.trial_of(parameters)
    folder = StudyFolder.open(job.storage, job.study.name)
    folder.pull(trial.name)
    summary = _summary_of(job, trial)
    stopped = False

    def report(record: Record) -> bool:
        nonlocal stopped
        folder.push(trial.name)
        if not stopped and (found := summary(record)):
            try:
                tune.report(found)
            except SystemExit:  # how Ray stops a trial; it may not wait for the run to save itself
                stopped = True
        return stopped

    folder.note_failure(trial.name, None)
    try:
        result = run_trial(folder.path, trial, report)
        if result is None:  # it finished before its score was noted
            records = read_records(folder.path / trial.name / "evaluations.jsonl")
            found = [found for record in records if (found := summary(record))]
            tune.report(found[-1])
        elif result.state == "failed":
            raise RuntimeError(_reason(result.run_dir))
    except Exception:
        folder.note_failure(trial.name, traceback.format_exc())
        raise
    finally:
        folder.push(trial.name)
        folder.discard_copy()


def _summary_of(job: Job, trial: Trial) -> Callable[[Record], dict[str, Any] | None]:
    """Makes of records what Ray needs to know: `env_step`, and the `score` over all seeds or None.

    A search needs a score each time; it gets None instead of a summary without one.
    """
    training = trial.config.training
    mode = job.mode or next(iter(training.evaluation_modes), None)
    scores: dict[int, list[float]] = defaultdict(list)

    def summary(record: Record) -> dict[str, Any] | None:
        env_step, score = record["env_step"], None
        if "returns" in record and record["mode"] == mode:
            scores[env_step].append(fmean(record["returns"]))
            if len(scores[env_step]) == len(training.seeds):
                score = fmean(scores[env_step])
        return None if score is None and job.mode else {"env_step": env_step, "score": score}

    return summary


def _choose_device(gpus: float) -> None:
    """Before JAX looks for devices: a trial takes no more than it declared."""
    if gpus == 0:
        os.environ["JAX_PLATFORMS"] = "cpu"
    elif gpus < 1:
        os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 * gpus:.3f}"
    if os.environ.get("OMP_NUM_THREADS") == "1":  # Ray sets it to the trial's cores
        flags = os.environ.get("XLA_FLAGS", "")
        # With one core, more threads would only wait for each other.
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()


def _reason(run_dir: Path) -> str:
    """Why a run failed: what its status says, and the traceback that it left."""
    directory = RunDirectory(run_dir)
    texts = [text.read_text() for text in sorted(directory.failures_folder.rglob("*.txt"))]
    return "\n\n".join([str(directory.status().get("reason")), *texts])


class SweepProgress(tune.Callback):
    """Is notified of all trials and shows how far they are: bars, or lines without a terminal.

    Attributes:
        errors: of trials that failed for good, what Ray knows of it.
    """

    def __init__(self, job: Job, waiting: Iterable[str], finished: int, total: int, quiet: bool):
        self._job = job
        self._states = dict.fromkeys(waiting, "waiting")
        self.errors: dict[str, str] = {}
        self._console = rich.console.Console(quiet=quiet)
        self._bars = rich.progress.Progress(
            "{task.description}",
            "{task.completed:,.0f} of {task.total:,.0f}",
            "{task.fields[score]}",
            rich.progress.TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._ended = self._bars.add_task("trials", total=total, completed=finished, score="")
        self._tasks: dict[str, rich.progress.TaskID] = {}
        self._shown_at = time.monotonic()
        if finished:
            self._console.print(f"{finished} trials have finished before.", highlight=False)
        self._bars.start()

    @property
    def interrupted(self) -> bool:
        """Whether trials were left that had neither ended nor failed."""
        return any(state not in ("finished", "failed") for state in self._states.values())

    def __getstate__(self) -> dict[str, Any]:
        """Nothing of the screen: Ray pickles its callbacks together with its state."""
        return {"errors": self.errors}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker starts a trial, or restarts it."""
        planned = self._job.trial_of(trial.config)
        if planned.name in self._tasks:
            self._bars.reset(self._tasks[planned.name])
            self._enter(trial, "training", "is resumed")
        else:
            steps = planned.config.training.num_env_steps
            self._tasks[planned.name] = self._bars.add_task(planned.name, total=steps, score="")
            self._enter(trial, "training", "begins")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A record of a trial."""
        if "env_step" not in result:  # Ray's own last word
            return
        task = self._tasks[self._job.trial_of(trial.config).name]
        self._bars.update(task, completed=result["env_step"])
        if result["score"] is not None:
            self._bars.update(task, score=f"return {return_text(result['score'])}")
        if self._bars.disable and time.monotonic() - self._shown_at >= _LINE_EVERY_S:
            self._shown_at = time.monotonic()
            self._console.print(self._bars.get_renderable())

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended well."""
        self._enter(trial, "finished", "finished")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed, or its worker died, and is restarted."""
        self._enter(trial, "waiting", "failed and is restarted")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed for good."""
        file = trial.error_file
        known = Path(file).read_text() if file and Path(file).is_file() else "its worker died"
        self.errors[self._enter(trial, "failed", "failed")] = known

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Nothing runs any more."""
        self._bars.stop()

    def _enter(self, trial: Any, state: str, what: str) -> str:
        """Notes the state of a trial, and says it; returns the trial's name."""
        name = self._job.trial_of(trial.config).name
        self._states[name] = state
        self._bars.update(self._tasks[name], visible=state == "training")
        if state in ("finished", "failed"):
            self._bars.advance(self._ended)
        score = self._bars.tasks[self._tasks[name]].fields["score"]
        text = f"{name} {what}, {score}" if state == "finished" and score else f"{name} {what}"
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
        return name
