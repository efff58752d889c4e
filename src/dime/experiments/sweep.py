"""Running a study's trials side by side with Ray Tune, on this machine or on a cluster."""

import contextlib
import importlib.util
import logging
import os
import shutil
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dime.errors import DimeError, require
from dime.experiments.mirror import Mirror
from dime.experiments.study import Study, Trial, read_study, source_of, trials_of
from dime.experiments.study_folder import StudyFolder, run_trial
from dime.training.config import RunConfig
from dime.training.listeners import Record
from dime.training.run_directory import RunDirectory

_ANSWER_WITHIN_S = 5.0
_OBJECT_STORE_BYTES = 80 * 2**20  # trials exchange nothing but numbers


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended.

    Attributes:
        folder: the study's.
        finished: names of its trials that reached their last env step.
        failed: those that failed for good, and why.
        stopped_early: those of a search that ASHA stopped.
    """

    folder: Path
    finished: tuple[str, ...]
    failed: Mapping[str, str]
    stopped_early: tuple[str, ...]


def sweep(
    study: Study | Mapping[str, Any] | str | Path,
    *,
    storage: str | Path = "runs",
    variant: str | None = None,
    address: str | None = None,
    progress: bool = True,
) -> SweepResult:
    """Runs what of a study has not finished yet; the same call again goes on after any stop.

    Each trial is a run directory in `storage/NAME`, written and resumed as by `dime.train` and
    `dime.resume`. A trial that fails is begun again from its last checkpoint, `retries` times.

    Args:
        study: as for `read_study`: a file, a shipped study's name, a table or a `Study`.
        storage: folder for the study's folder; for trials on several machines one that all of
            them see, or a URI that Ray accepts (s3://bucket/path), to which runs are copied at
            each checkpoint.
        variant: "laptop" for the small variant.
        address: of a Ray cluster ("auto", "host:6379"); this machine by itself if None.
        progress: whether to show how far the trials are.

    Returns:
        What finished, what failed and why.

    Raises:
        DimeError: the study, the storage or the address is refused; no trial was started then.
        KeyboardInterrupt: Ctrl-C; trials are saved at their next record.
    """
    require(
        importlib.util.find_spec("ray") is not None,
        "Sweeps need Ray Tune: pip install 'dime-rl[sweep]'",
    )
    mirror = Mirror.of(str(storage))
    chosen = read_study(study, variant)
    folder = StudyFolder(mirror.local / chosen.name)
    mirror.pull_records(chosen.name)
    source = source_of(Path(study)) if isinstance(study, str | Path) else ""
    stopped_early: tuple[str, ...] = ()
    if chosen.of_search is not None:
        from dime.experiments.search import search

        with _cluster(address):
            trials, stopped_early = search(chosen, folder, source, mirror, progress)
    else:
        trials = trials_of(chosen)
        folder.plan(chosen, source, trials)
        with _cluster(address):
            _run_grid(chosen, folder, trials, mirror, progress)
    mirror.pull_records(chosen.name)
    return _result(folder, trials, stopped_early)


def _run_grid(
    study: Study, folder: StudyFolder, trials: list[Trial], mirror: Mirror, progress: bool
) -> None:
    from ray import tune

    from dime.experiments.sweep_progress import SweepProgress

    open_trials = [trial for trial in trials if not folder.is_finished(trial)]
    if not open_trials:
        return
    display = SweepProgress(open_trials, len(trials) - len(open_trials), not progress)
    configs = {trial.name: trial.config.to_json() for trial in open_trials}
    space = {"trial": tune.grid_search(list(configs)), **_constants(folder, mirror, configs)}
    for result in run_tuner(study, train_trial, folder, mirror, space, [display], {}):
        if result.error is None or result.config is None:
            continue  # it ended well, or never began
        name = result.config["trial"]
        if folder.failure(name) is None:  # its worker died and left no word
            folder.note_failure(name, str(result.error))


def run_tuner(  # noqa: PLR0913  what Ray Tune is told, in its own order
    study: Study,
    train: Callable[[Mapping[str, Any]], None],
    folder: StudyFolder,
    mirror: Mirror,
    space: dict[str, Any],
    callbacks: list[Any],
    tune_options: Mapping[str, Any],
) -> Any:
    """Hands the trials to Ray Tune and returns their results; its own state is thrown away."""
    from ray import tune

    # Ray keeps pickled state beside the results; it is never read, and a new place each time.
    state = f"{mirror.target(folder.path.name)}/.ray"
    trainable = tune.with_resources(
        train, {"cpu": study.cpus} | ({"gpu": study.gpus} if study.gpus else {})
    )
    tuner = tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}", **tune_options
        ),
        run_config=tune.RunConfig(
            name=f"{int(time.time() * 1000):x}",
            storage_path=state,
            failure_config=tune.FailureConfig(max_failures=study.retries),
            callbacks=callbacks,
            verbose=0,
        ),
    )
    try:
        return tuner.fit()
    finally:
        shutil.rmtree(folder.path / ".ray", ignore_errors=True)


def _constants(folder: StudyFolder, mirror: Mirror, configs: Mapping[str, Any]) -> dict[str, Any]:
    """What every trial is told beside its name."""
    return {"study": str(folder.path.absolute()), "mirror": mirror.uri, "configs": dict(configs)}


def train_trial(told: Mapping[str, Any]) -> None:
    """Runs in a worker of Ray: the trial of a name."""
    name = told["trial"]
    trial = Trial(name, RunConfig.from_json(told["configs"][name]))
    train_in_worker(Path(told["study"]), told["mirror"], trial, _scored)


def train_in_worker(
    study: Path, uri: str, trial: Trial, scored: Callable[[Record], dict[str, Any] | None]
) -> None:
    """Runs a trial from wherever it stands, and reports what `scored` makes of its records."""
    from ray import tune

    _limit_threads()
    mirror = Mirror.of_uri(uri)
    folder = StudyFolder(mirror.folder(study))
    mirror.pull(folder.path, trial.name)

    def report(record: Record) -> bool:
        mirror.push(folder.path, trial.name)
        if (told := scored(record)) is not None:
            try:
                tune.report(told)
            except SystemExit:  # how Ray stops a trial: the run is to save itself first
                return True
        return False

    folder.forget_failure(trial.name)
    try:
        result = run_trial(folder.path, trial, report)
        if result and result.state == "failed":
            raise RuntimeError(_reason(result.run_dir))
    except Exception:
        folder.note_failure(trial.name, traceback.format_exc())
        raise
    finally:
        mirror.push(folder.path, trial.name)


def _scored(record: Record) -> dict[str, Any]:
    """Position, and the return of the record's episodes."""
    returns = record.get("returns")
    score = sum(returns) / len(returns) if returns else record.get("episode_return")
    return {"env_step": record["env_step"], "score": score}


def _limit_threads() -> None:
    """A trial on one core computes in one thread; more would wait for each other."""
    if os.environ.get("OMP_NUM_THREADS") == "1":  # Ray sets it to the trial's cores
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()


def _reason(run_dir: Path) -> str:
    """Why a run failed: what its status says, and the traceback that it left."""
    directory = RunDirectory(run_dir)
    texts = sorted(directory.failures_folder.rglob("*.txt"))
    return "\n\n".join(
        [str(directory.status().get("reason")), *(text.read_text() for text in texts)]
    )


def _result(
    folder: StudyFolder, trials: list[Trial], stopped_early: tuple[str, ...]
) -> SweepResult:
    finished = tuple(trial.name for trial in trials if folder.is_finished(trial))
    open_names = [t.name for t in trials if t.name not in finished and t.name not in stopped_early]
    failures = {name: folder.failure(name) for name in open_names}
    if None in failures.values():  # Ray itself returns as if all were well
        raise KeyboardInterrupt
    return SweepResult(
        folder.path, finished, {name: str(text) for name, text in failures.items()}, stopped_early
    )


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Connects to Ray, or starts one on this machine that hears nobody else."""
    quiet = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():  # the caller's own
        yield
        return
    if address is not None:
        _require_answer(address)
        options: dict[str, Any] = {"address": address}
    else:
        options = {
            "_node_ip_address": "127.0.0.1",
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        place = f"the cluster at {address}" if address else "Ray on this machine"
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
    if not (colon and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), _ANSWER_WITHIN_S).close()
    except OSError as error:
        raise DimeError(
            f"The cluster at {address} does not answer ({error}). Look at its address (ray status "
            "on the head node), or leave --address out to use this machine."
        ) from error
