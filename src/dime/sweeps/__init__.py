"""Many runs: all trials of a study with Ray Tune, or one by itself, and what they will cost."""

import importlib.util
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dime.benchmark.timing import hours, read_costs
from dime.errors import require
from dime.sweeps.folder import StudyFolder, run_trial
from dime.sweeps.study import Study, Trial, read_study, source_of, trials_of
from dime.training.loop import RunResult

StudyLike = Study | Mapping[str, Any] | str | Path


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended."""

    folder: Path
    """The study's."""
    finished: tuple[str, ...]
    """Names of the trials that reached their last env step."""
    failed: Mapping[str, str]
    """Those that failed for good, and why."""
    stopped_early: tuple[str, ...]
    """Those of a search that ASHA stopped."""


def sweep(
    study: StudyLike,
    *,
    storage: str | Path = "runs",
    variant: str | None = None,
    address: str | None = None,
    progress: bool = True,
) -> SweepResult:
    """Runs the unfinished trials of a study; the same call continues it after any stop.

    Each trial is a run directory in `storage/NAME`, written and resumed as by `dime.train` and
    `dime.resume`. A trial that fails is restarted from its last checkpoint, `retries` times.

    Args:
        study: a .toml or .py file, a shipped study's name, a table or a `Study`.
        storage: parent of the study's folder: a folder that all machines share, or a URI that Ray
            accepts (s3://bucket/path), to which runs are copied at each record.
        variant: "laptop" for the small variant.
        address: of a Ray cluster ("auto", "host:6379"); None runs on this machine alone.
        progress: whether to show how far the trials are.

    Raises:
        DimeError: the study, the storage or the address is refused; no trial was started then.
        KeyboardInterrupt: Ctrl-C; the next call repeats the work since the last checkpoints.
    """
    missing = [name for name in ("ray", "optuna") if importlib.util.find_spec(name) is None]
    require(not missing, f"Sweeps need {', '.join(missing)}: pip install 'dime-rl[sweep]'")
    from dime.sweeps.tuner import connected, run_grid

    chosen = read_study(study, variant)
    folder = StudyFolder.open(str(storage), chosen.name)
    source = source_of(study, variant)
    folder.pull_records()
    scored: set[str] = set()
    if chosen.of_search is None:
        trials = trials_of(chosen)
        folder.plan(chosen, source, trials)
        with connected(address):
            run_grid(chosen, folder, trials, progress)
    else:
        from dime.sweeps.search import search

        with connected(address):
            trials, scored = search(chosen, folder, source, progress)
    folder.pull_records()
    finished = tuple(trial.name for trial in trials if folder.is_finished(trial))
    others = [trial.name for trial in trials if trial.name not in finished]
    failed = {name: folder.reason(name) for name in others if name not in scored}
    stopped_early = tuple(name for name in others if name in scored)
    return SweepResult(folder.path, finished, failed, stopped_early)


def _plan(
    study: Path, storage: str, variant: str | None, option: str
) -> tuple[Study, StudyFolder, list[Trial]]:
    """The study and its trials; writes their plan to a local folder."""
    require("://" not in storage, f"--storage is {storage}; {option} needs a shared folder.")
    chosen = read_study(study, variant)
    folder, trials = StudyFolder.open(storage, chosen.name), trials_of(chosen)
    folder.plan(chosen, source_of(study, variant), trials)
    return chosen, folder, trials


def run_one(study: Path, storage: str, variant: str | None, number: int) -> RunResult | None:
    """Runs or resumes one trial without Ray; None if it has finished already."""
    chosen, folder, trials = _plan(study, storage, variant, "--trial")
    require(
        0 <= number < len(trials),
        f"--trial is {number}; {chosen.name} has the trials 0 to {len(trials) - 1}.",
    )
    return run_trial(folder.path, trials[number], progress=True)


def write_job_array(study: Path, storage: str, variant: str | None) -> Path:
    """Writes the study's plan and a job array for SLURM; returns the script for `sbatch`."""
    chosen, folder, trials = _plan(study, storage, variant, "--emit")
    place = folder.path.absolute()
    script = place / "sweep.sbatch"
    script.write_text(
        Path(__file__)
        .with_name("job_array.sh")
        .read_text("utf-8")
        .format(
            name=chosen.name,
            last=len(trials) - 1,
            cpus=chosen.cpus,
            gpus=f"#SBATCH --gpus-per-task={math.ceil(chosen.gpus)}\n" * (chosen.gpus > 0),
            folder=place,
            study=shlex.quote(str(study.absolute() if study.suffix else study)),
            storage=shlex.quote(str(place.parent)),
            variant=f" --variant {variant}" if variant else "",
        )
    )
    return script


def show_costs(study: Path, variant: str | None, figures: Path | None) -> None:
    """Prints the trials, and the hours that their updates and actions take."""
    chosen = read_study(study, variant)
    costs, note = read_costs(figures, chosen.preset)
    expected, trials = [], list(trials_of(chosen))
    print(f"{chosen.name}: {chosen.description}\n\n   #      env steps    hours  trial")
    for number, (name, config) in enumerate(trials):
        expected.append(cost := hours(config, costs))
        steps = config.training.num_env_steps * len(config.training.seeds)
        print(f"{number:4} {steps:14,} {'?' if cost is None else f'{cost:.2f}':>8}  {name}")
    unknown = ", without those of unknown cost" if None in expected else ""
    print(
        f"\n{sum(filter(None, expected)):.1f} hours in all{unknown}, at {chosen.cpus} cores and "
        f"{chosen.gpus:g} GPUs per trial, {note}. Environments, evaluations and compilation come "
        "on top."
    )
