"""Running a study's trials side by side with Ray Tune, on this machine or on a cluster."""

import contextlib
import importlib.util
import logging
import os
import socket
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dime.errors import DimeError, require
from dime.sweeps.mirror import Mirror
from dime.sweeps.study import Study, Trial, trials_of
from dime.sweeps.study_files import read_study, source_of
from dime.sweeps.study_folder import StudyFolder

if TYPE_CHECKING:  # needs Ray
    from dime.sweeps.progress import SweepProgress

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
            each record.
        variant: "laptop" for the small variant.
        address: of a Ray cluster ("auto", "host:6379"); this machine by itself if None.
        progress: whether to show how far the trials are.

    Returns:
        What finished, what failed and why.

    Raises:
        DimeError: the study, the storage or the address is refused; no trial was started then.
        KeyboardInterrupt: Ctrl-C; the next call repeats the work since the last checkpoints.
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
    if variant is not None:
        source = f"# --variant {variant}\n{source}"
    stopped_early: tuple[str, ...] = ()
    if chosen.of_search is not None:
        require(
            importlib.util.find_spec("optuna") is not None,
            "A search needs Optuna: pip install 'dime-rl[sweep]'",
        )
        from dime.sweeps.search import search

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

    from dime.sweeps.progress import SweepProgress
    from dime.sweeps.worker import told_to_workers, train_trial

    open_trials = [trial for trial in trials if not folder.is_finished(trial)]
    if not open_trials:
        return
    display = SweepProgress(open_trials, len(trials) - len(open_trials), not progress)
    each = [{"name": trial.name, "config": trial.config.to_json()} for trial in open_trials]
    told = {"trial": tune.grid_search(each), **told_to_workers(study, folder, mirror)}
    run_tuner(study, train_trial, told, folder, mirror, display, {})


def run_tuner(  # noqa: PLR0913  what Ray Tune is told, in its own order
    study: Study,
    train: Callable[[Mapping[str, Any]], None],
    told: dict[str, Any],
    folder: StudyFolder,
    mirror: Mirror,
    display: "SweepProgress",
    tune_options: Mapping[str, Any],
) -> None:
    """Hands the trials to Ray Tune and waits for them.

    Ray's own state, which is pickled, goes to a new place each time and is thrown away unread.
    Raises `KeyboardInterrupt` where Ctrl-C stopped it, from which Ray returns as if all were well.
    """
    from ray import tune

    _require_resources(study)
    mirror.push_small(folder.path)
    state = f"{mirror.target(folder.path.name)}/.ray"
    resources = {"cpu": study.cpus} | ({"gpu": study.gpus} if study.gpus else {})
    tuner = tune.Tuner(
        tune.with_resources(train, resources),
        param_space=told,
        tune_config=tune.TuneConfig(
            trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}", **tune_options
        ),
        run_config=tune.RunConfig(
            name=uuid.uuid4().hex,
            storage_path=state,
            failure_config=tune.FailureConfig(max_failures=study.retries),
            callbacks=[display],
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        mirror.remove(state)
        for name, error in display.errors.items():
            if folder.failure(name) is None:  # its worker died and left no word
                folder.note_failure(name, error)
        mirror.push_small(folder.path)
    if display.interrupted:
        raise KeyboardInterrupt


def _result(
    folder: StudyFolder, trials: list[Trial], stopped_early: tuple[str, ...]
) -> SweepResult:
    finished = tuple(trial.name for trial in trials if folder.is_finished(trial))
    ended = {*finished, *stopped_early}
    failed = {
        trial.name: folder.failure(trial.name) or folder.reason(trial.name)
        for trial in trials
        if trial.name not in ended
    }
    return SweepResult(folder.path, finished, failed, stopped_early)


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Connects to Ray, or starts one on this machine that hears nobody else."""
    quiet = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
        # Or Ray warns that it will hide GPUs from trials that declare none, which do not look.
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
            "address": "local",  # a cluster that runs here for others is not joined unasked
            "_node_ip_address": "127.0.0.1",
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
    try:
        with warnings.catch_warnings():
            # JAX warns of any fork; Ray's children run other programs at once.
            warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
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


def _require_resources(study: Study) -> None:
    """Raises `DimeError` where no trial could ever start; Ray would wait for ever."""
    import ray

    there = ray.cluster_resources()
    for what, wanted in {"CPU": study.cpus, "GPU": study.gpus}.items():
        require(
            wanted <= there.get(what, 0),
            f"A trial of {study.name} asks for {wanted:g} {what}s, and there are "
            f"{there.get(what, 0):g}. Change {what.lower()}s in the study, use its small variant "
            "(--variant laptop), or name a cluster (--address).",
        )


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
