"""What a sweep would do: its trials and their cost, a job array, one trial by itself."""

import math
import shlex
from pathlib import Path

import rich.box
import rich.console
import rich.table

from dime.benchmark.hours import hours, read_costs
from dime.errors import require
from dime.sweeps.study import Study, Trial, trials_of
from dime.sweeps.study_files import read_study, source_of
from dime.sweeps.study_folder import StudyFolder, run_trial
from dime.training.loop import RunResult

_SLURM = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={cpus}
{gpus}#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --output={folder}/slurm-%a.txt
# Each task is one trial. SIGTERM saves it and ends it with status 75: it is queued again.
dime sweep {study} --storage {storage}{variant} --trial "$SLURM_ARRAY_TASK_ID" &
trial=$!
trap 'kill -TERM "$trial"' TERM
wait "$trial"
status=$?
if [ "$status" -gt 128 ]; then  # the signal came: now it saves
  wait "$trial"
  status=$?
fi
if [ "$status" = 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
"""


def show(study: Path, variant: str | None, figures: Path | None) -> None:
    """Prints the trials, and the hours that their updates and actions take."""
    chosen = read_study(study, variant)
    costs, note = read_costs(figures, chosen.preset)
    table = rich.table.Table(title=f"{chosen.name}: {chosen.description}", box=rich.box.SIMPLE)
    for column in ("#", "trial", "env steps", "hours"):
        table.add_column(column, justify="left" if column == "trial" else "right", overflow="fold")
    total, unknown = 0.0, False
    for number, trial in enumerate(_planned(chosen)):
        expected = hours(trial.config, costs)
        total, unknown = total + (expected or 0.0), unknown or expected is None
        steps = trial.config.training.num_env_steps * len(trial.config.training.seeds)
        shown = "?" if expected is None else f"{expected:.2f}"
        table.add_row(str(number), trial.name, f"{steps:,}", shown)
    console = rich.console.Console()
    console.print(table)
    more = " and those of unknown cost" if unknown else ""
    console.print(
        f"{total:.1f} hours of one trial's resources ({chosen.cpus} cores, {chosen.gpus:g} GPUs) in"
        f" all{more}, {note}. Environments, evaluations and compilation come on top.",
        highlight=False,
    )


def _planned(study: Study) -> list[Trial]:
    require(
        study.of_search is None,
        "A search draws its trials as it goes: they can neither be listed nor numbered before.",
    )
    return trials_of(study)


def write_slurm(study: Path, storage: str, variant: str | None) -> Path:
    """Writes the study's plan and a job array beside it, for clusters with SLURM.

    Returns:
        The script: submit it with `sbatch`.
    """
    require("://" not in storage, f"--storage is {storage}; a job array needs a shared folder.")
    require("\n" not in storage, f"--storage is {storage!r}; a script cannot name such a folder.")
    chosen = read_study(study, variant)
    trials = _planned(chosen)
    folder = StudyFolder(Path(storage).absolute() / chosen.name)
    folder.plan(chosen, source_of(study), trials)
    script = folder.path / "sweep.sbatch"
    script.write_text(
        _SLURM.format(
            name=chosen.name,
            last=len(trials) - 1,
            cpus=chosen.cpus,
            gpus=f"#SBATCH --gpus-per-task={math.ceil(chosen.gpus)}\n" if chosen.gpus else "",
            folder=folder.path,
            study=shlex.quote(str(study.absolute() if study.suffix else study)),
            storage=shlex.quote(str(folder.path.parent)),
            variant=f" --variant {variant}" if variant else "",
        )
    )
    return script


def run_one(study: Path, storage: str, variant: str | None, number: int) -> RunResult | None:
    """Runs or resumes the trial of this number; None where it has finished before."""
    require("://" not in storage, f"--storage is {storage}; --trial needs a folder.")
    chosen = read_study(study, variant)
    trials = _planned(chosen)
    folder = StudyFolder(Path(storage) / chosen.name)
    folder.plan(chosen, source_of(study), trials)
    require(
        0 <= number < len(trials),
        f"--trial is {number}; {chosen.name} has the trials 0 to {len(trials) - 1}.",
    )
    return run_trial(folder.path, trials[number], progress=True)
