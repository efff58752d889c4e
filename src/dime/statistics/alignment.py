"""From what was recorded to one array: the env steps and the numbers of runs made equal."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from dime.errors import require

Histories = Mapping[str, Sequence[Mapping[int, float]]]
"""By task, the runs' scores by env step."""


class AlignedRuns(NamedTuple):
    """Runs on some tasks, evaluated at the same env steps, and what they are without.

    Attributes:
        env_steps: (time,), ascending.
        scores: (runs, tasks, time), the tasks in the order of the histories.
        left_out: a line for everything that was left out; empty if nothing was.
    """

    env_steps: Int[np.ndarray, "time"]
    scores: Float[np.ndarray, "runs tasks time"]
    left_out: tuple[str, ...]


def align_runs(histories: Histories, *, keep_fewest: bool = False) -> AlignedRuns:
    """The scores of all runs at the env steps that all of them share.

    Args:
        histories: by task, one mapping from env step to score for each run.
        keep_fewest: where tasks have different numbers of runs, keep the first ones of each, as
            many as the task with the fewest has. By default such histories are refused: runs that
            are missing because they failed are no random choice.

    Raises:
        DimeError: there are no tasks, a task has no runs, tasks have different numbers of runs, or
            the runs share no env step.

    >>> walk, run = [{0: 1.0, 500: 2.0}, {0: 3.0, 500: 4.0, 1000: 5.0}], [{0: 6.0, 500: 7.0}]
    >>> aligned = align_runs({"walk": walk, "run": run}, keep_fewest=True)
    >>> aligned.scores.tolist()
    [[[1.0, 2.0], [6.0, 7.0]]]
    >>> aligned.left_out
    ('walk: the last 1 of 2 runs',)
    """
    counts = {task: len(runs) for task, runs in histories.items()}
    fewest = min(counts.values(), default=0)
    listed = ", ".join(f"{task}: {count}" for task, count in counts.items())
    require(fewest > 0, f"Every task needs a run; the numbers of runs are {listed or 'none'}.")
    require(
        keep_fewest or max(counts.values()) == fewest,
        f"Tasks have different numbers of runs ({listed}). Add the missing runs, or keep the first "
        f"{fewest} of each task with keep_fewest=True.",
    )
    kept = {task: runs[:fewest] for task, runs in histories.items()}
    shared = set.intersection(*(set(run) for runs in kept.values() for run in runs))
    require(
        bool(shared),
        f"The runs share no env step (numbers of runs: {listed}), so they cannot be aligned. "
        "Evaluate them at the same intervals.",
    )
    env_steps = sorted(shared)
    table = [[[run[step] for step in env_steps] for run in runs] for runs in kept.values()]
    scores = np.array(table, np.float64).swapaxes(0, 1)  # (tasks, runs, time) before
    left_out = [
        f"{task}: the last {count - fewest} of {count} runs"
        for task, count in counts.items()
        if count > fewest
    ]
    for task, runs in kept.items():
        recorded = {step for run in runs for step in run}
        if unshared := sorted(recorded - shared):
            left_out.append(
                f"{task}: {len(unshared)} of {len(recorded)} env steps, within {unshared[0]} to "
                f"{unshared[-1]}"
            )
    return AlignedRuns(np.array(env_steps), scores, tuple(left_out))
