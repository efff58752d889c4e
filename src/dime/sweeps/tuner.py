"""A study's trials in Ray Tune: the cluster, its workers, the progress display."""

import contextlib
import logging
import os
import socket
import time
import traceback
import uuid
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import ray
from ray import tune

from dime.errors import DimeError, require
from dime.sweeps.folder import StudyFolder, run_trial
from dime.sweeps.study import Study, Trial
from dime.training.listeners import Record, return_text
from dime.training.records import read_records
from dime.training.run_directory import RunDirectory

_ALONE = {
    "address": "local",  # joins no other cluster on this machine
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
    # Or Ray warns that it will hide GPUs from trials that declare none; these use none.
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
    options: dict[str, Any] = _ALONE if address is None else {"address": address}
    try:
        host, _, port = (address or "").removeprefix("ray://").rpartition(":")
        if port.isdigit():  # Ray itself would wait for minutes
            socket.create_connection((host, int(port)), timeout=5.0).close()
        with warnings.catch_warnings():
            # JAX warns of any fork; Ray's children exec at once.
            warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
            context = ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        place = f"The cluster at {address}" if address else "Ray on this machine"
        raise DimeError(f"{place} does not answer (--address): {error}") from error
    with context:
        yield


def _require_resources(study: Study) -> None:
    """Refuses a study whose trials could never start; Ray would wait forever."""
    available = ray.cluster_resources()
    for what, wanted in {"CPU": study.cpus, "GPU": study.gpus}.items():
        require(
            wanted <= available.get(what, 0),
            f"A trial of {study.name} needs {wanted:g} {what}s ({what.lower()}s in the study); "
            f"{available.get(what, 0):g} are available here or at --address.",
        )


class Job(NamedTuple):
    """What a worker needs besides Ray's parameters of a trial."""

    study: Study
    storage: str
    """Parent of the study's folder, a path or a URI."""
    trial_of: Callable[[Mapping[str, Any]], Trial]
    """The trial with these parameters."""
    mode: str | None = None
    """Evaluation mode that a search maximises; None outside searches."""


def run_grid(study: Study, folder: StudyFolder, trials: list[Trial], progress: bool) -> None:
    """Runs the trials that have not finished."""
    unfinished = {trial.name: trial for trial in trials if not folder.is_finished(trial)}
    if unfinished:
        job = Job(study, folder.storage, lambda parameters: unfinished[parameters["trial"]])
        counts = len(trials) - len(unfinished), len(trials)
        display = SweepProgress(job, folder, counts, quiet=not progress)
        run_trials(display, {"trial": tune.grid_search(list(unfinished))})


def run_trials(display: "SweepProgress", parameters: dict[str, Any], **tune_options: Any) -> None:
    """Hands trials to Ray Tune and waits for them.

    Ray's own state, which is pickled, goes to a new place each time and is deleted unread.
    Raises `KeyboardInterrupt` after Ctrl-C, for which Ray returns normally.
    """
    job, folder = display.job, display.folder
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
            callbacks=[display],
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        folder.remove(".ray")
        folder.push_small()
    if display.trials_left:
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
            except SystemExit:  # how Ray stops a trial; the run still has to save itself
                stopped = True
        return stopped

    folder.failure(trial.name).unlink(missing_ok=True)
    try:
        result = run_trial(folder.path, trial, report)
        if result is None:  # it finished before its score was noted
            records = read_records(folder.path / trial.name / "evaluations.jsonl")
            *_, newest = filter(None, map(summary, records))
            tune.report(newest)
        elif result.state == "failed":
            tracebacks = RunDirectory(result.run_dir).failures_folder.rglob("*.txt")
            texts = [file.read_text() for file in sorted(tracebacks)]
            raise RuntimeError("\n\n".join([str(result.reason), *texts]))
    except Exception:
        folder.note_failure(trial.name, traceback.format_exc())
        raise
    finally:
        folder.push(trial.name)
        folder.discard_copy()


def _summary_of(job: Job, trial: Trial) -> Callable[[Record], dict[str, Any] | None]:
    """Turns records into Ray's results: `env_step`, and the `score` over all seeds or None.

    In a search every result needs a score; records without one give None.
    """
    training = trial.config.training
    mode = job.mode or next(iter(training.evaluation_modes), None)
    means: dict[int, list[float]] = defaultdict(list)

    def summary(record: Record) -> dict[str, Any] | None:
        env_step, score = record["env_step"], None
        if "returns" in record and record["mode"] == mode:
            means[env_step].append(fmean(record["returns"]))
            if len(means[env_step]) == len(training.seeds):
                score = fmean(means[env_step])
        return None if score is None and job.mode else {"env_step": env_step, "score": score}

    return summary


def _choose_device(gpus: float) -> None:
    """Before JAX looks for devices: a trial uses no more than it declared."""
    if gpus == 0:
        os.environ["JAX_PLATFORMS"] = "cpu"
    elif gpus < 1:
        os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 * gpus:.3f}"
    if os.environ.get("OMP_NUM_THREADS") == "1":  # Ray sets it to the trial's cores
        flags = os.environ.get("XLA_FLAGS", "")
        # With one core, more threads would only wait for each other.
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()


class SweepProgress(tune.Callback):
    """Prints what happens to the trials, and every half minute how far they are.

    `counts` are how many trials have ended before, and how many there are. `note` is called with a
    trial's name and parameters when it starts, and when it ends also with its `score` (None if it
    failed).
    """

    def __init__(
        self,
        job: Job,
        folder: StudyFolder,
        counts: tuple[int, int],
        quiet: bool,
        note: Callable[..., None] = lambda *_, **score: None,
    ):
        self.job, self.folder, self._note, self._quiet = job, folder, note, quiet
        self._ended, self._total = counts
        self._running: dict[str, str] = {}  # and how far
        self._shown_at = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles its callbacks together with its state."""
        return {}

    @property
    def trials_left(self) -> bool:
        """Whether there are trials that have neither ended nor failed."""
        return self._ended < self._total

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker starts a trial, or restarts it."""
        name = self.job.trial_of(trial.config).name
        self._say(f"{name} {'is resumed' if name in self._running else 'begins'}")
        self._running.setdefault(name, "no record yet")
        self._note(name, trial.config)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A record of a trial."""
        if "env_step" not in result:  # Ray's last result of a trial
            return
        name, config = self.job.trial_of(trial.config)
        far = f"{result['env_step']:,} of {config.training.num_env_steps:,} env steps"
        if result["score"] is not None:
            far += f", return {return_text(result['score'])}"
        self._running[name] = far
        if time.monotonic() - self._shown_at >= 30.0:
            self._shown_at = time.monotonic()
            self._say(f"{self._ended} of {self._total} trials have ended")
            for line in self._running.items():
                self._say(": ".join(line))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ended normally, or ASHA stopped it."""
        name = self.job.trial_of(trial.config).name
        self._say(f"{name} finished: {self._running.pop(name)}")
        self._ended += 1
        if (score := trial.last_result.get("score")) is not None:
            self._note(name, trial.config, score=score)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed, or its worker died, and is restarted."""
        self._say(f"{self.job.trial_of(trial.config).name} failed and is restarted")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed for good."""
        name = self.job.trial_of(trial.config).name
        if not self.folder.failure(name).is_file():  # its worker died without writing it
            file = Path(trial.error_file or "")
            text = file.read_text() if file.is_file() else "its worker died"
            self.folder.note_failure(name, text)
        self._say(f"{name} failed")
        self._ended += 1
        del self._running[name]
        self._note(name, trial.config, score=None)

    def _say(self, line: str) -> None:
        if not self._quiet:
            print(line, flush=True)
