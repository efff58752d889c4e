"""What runs in a worker of Ray: one trial, from wherever it stands."""

import os
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray import tune

from dime.sweeps.mirror import Mirror
from dime.sweeps.study import Study, Trial
from dime.sweeps.study_folder import StudyFolder, run_trial
from dime.training.config import RunConfig
from dime.training.listeners import Record
from dime.training.run_directory import RunDirectory

Report = dict[str, Any]
"""What Ray hears of a record: `env_step`, and the `score` or None."""


def told_to_workers(study: Study, folder: StudyFolder, mirror: Mirror) -> dict[str, Any]:
    """What every trial is told beside what it is."""
    return {"study": str(folder.path.absolute()), "mirror": mirror.uri, "gpus": study.gpus}


def train_trial(told: Mapping[str, Any]) -> None:
    """A trial of a grid: `trial` has its name and config."""
    trial = Trial(told["trial"]["name"], RunConfig.from_json(told["trial"]["config"]))
    shown = trial.config.training.evaluation_modes[:1]

    def scored(record: Record) -> Report:
        returns = record["returns"] if record.get("mode") in shown else None
        score = sum(returns) / len(returns) if returns else None
        return {"env_step": record["env_step"], "score": score}

    train_in_worker(told, trial, scored)


def train_in_worker(
    told: Mapping[str, Any], trial: Trial, scored: Callable[[Record], Report | None]
) -> None:
    """Runs a trial from wherever it stands, and reports what `scored` makes of its records."""
    _choose_device(told["gpus"])
    mirror = Mirror.of_uri(told["mirror"])
    folder = StudyFolder(mirror.folder(Path(told["study"])))
    mirror.pull(folder.path, trial.name)
    stopped = False

    def report(record: Record) -> bool:
        nonlocal stopped
        mirror.push(folder.path, trial.name)
        heard = None if stopped else scored(record)
        if heard is not None:
            try:
                tune.report(heard)
            except SystemExit:  # how Ray stops a trial; it may not wait for the run to save itself
                stopped = True
        return stopped

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
        mirror.discard()


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
    texts = sorted(directory.failures_folder.rglob("*.txt"))
    return "\n\n".join(
        [str(directory.status().get("reason")), *(text.read_text() for text in texts)]
    )
