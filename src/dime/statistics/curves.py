"""Learning curves: runs made into one array, and one number of a curve.

Here time is the last axis. Statistics over runs and tasks have it in front:
`iqm(np.moveaxis(curves, -1, 0))` of curves (runs, tasks, time) is a curve (time,).

`DimeError` is raised if env steps do not ascend, are too few, or are not as many as the scores.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Real

from dime.errors import require
from dime.statistics.aggregates import Values

EnvSteps = Real[np.ndarray, "time"]
Curves = Real[np.ndarray, "*batch time"]
Histories = Mapping[str, Sequence[Mapping[int, float]]]
"""By task, the runs' scores by env step."""


class AlignedRuns(NamedTuple):
    """Runs on some tasks, evaluated at the same env steps, and what was left out.

    `env_steps` ascend, the tasks are in the order of the histories, and `left_out` has a line for
    everything that was left out.
    """

    env_steps: Int[np.ndarray, "time"]
    scores: Float[np.ndarray, "runs tasks time"]
    left_out: tuple[str, ...]


def align_runs(histories: Histories, *, keep_fewest: bool = False) -> AlignedRuns:
    """The scores of all runs at the env steps that all of them share.

    Args:
        histories: by task, one mapping from env step to score for each run; at least one task,
            a run of each, and an env step that all runs share.
        keep_fewest: if tasks have different numbers of runs, keep the first ones of each, as
            many as the task with the fewest has. By default such histories are refused: if runs
            are missing because they failed, the rest is not a random choice.

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
    return AlignedRuns(np.array(env_steps), scores, tuple(_left_out(histories, fewest, shared)))


def _left_out(histories: Histories, fewest: int, shared: set[int]) -> Iterator[str]:
    for task, runs in histories.items():
        if len(runs) > fewest:
            yield f"{task}: the last {len(runs) - fewest} of {len(runs)} runs"
    for task, runs in histories.items():
        recorded = {step for run in runs[:fewest] for step in run}
        if unshared := sorted(recorded - shared):
            yield (
                f"{task}: {len(unshared)} of {len(recorded)} env steps, within {unshared[0]} to "
                f"{unshared[-1]}"
            )


def area_under_curve(env_steps: EnvSteps, scores: Curves) -> Values:
    """The mean score along the curve: the area under it, divided by the span of env steps.

    Between two env steps the curve is a straight line (the trapezoid rule), so unevenly spaced
    evaluations weigh as much as the env steps around them.
    Takes at least two env steps. A NaN in the curve makes the result NaN.

    >>> float(area_under_curve(np.array([0, 100, 400]), np.array([0.0, 1.0, 1.0])))
    0.875
    """
    env_steps, scores = _as_curves(env_steps, scores, 2)
    span = env_steps[-1] - env_steps[0]
    return np.asarray(np.trapezoid(scores, env_steps, axis=-1) / span)


def steps_to_score(env_steps: EnvSteps, curve: Curves, score: float) -> Values:
    """The first env step, not rounded, at which the straight line between points reaches `score`.

    A curve that begins at the score or above it gives the first env step, also if it falls below
    it later. One that never gets there, or has a NaN anywhere, gives NaN: when it would get there
    is unknown. A mean over curves is then NaN too: report how many got there, or take the steps of
    the mean curve, `steps_to_score(env_steps, iqm(...), score)`.

    >>> float(steps_to_score(np.array([0, 100, 200]), np.array([0.0, 4.0, 8.0]), 5.0))
    125.0
    """
    env_steps, curve = _as_curves(env_steps, curve, 1)
    reached = curve >= score
    after = reached.argmax(axis=-1)  # the first point that is there, 0 where none is
    before = np.maximum(after - 1, 0)
    ends = np.take_along_axis(curve, np.stack([before, after], axis=-1), axis=-1)
    bottom, top = ends[..., 0], ends[..., 1]
    rise = np.where(after > 0, top - bottom, 1.0)
    share = np.where(after > 0, (score - bottom) / rise, 0.0)  # of the way between the two points
    steps = env_steps[before] + share * (env_steps[after] - env_steps[before])
    known = reached.any(axis=-1) & ~np.isnan(curve).any(axis=-1)
    return np.asarray(np.where(known, steps, np.nan))


def _as_curves(
    env_steps: np.ndarray, curves: np.ndarray, fewest: int
) -> tuple[np.ndarray, np.ndarray]:
    env_steps, curves = np.asarray(env_steps, np.float64), np.asarray(curves, np.float64)
    require(
        env_steps.ndim == 1 and env_steps.size >= fewest and bool(np.all(np.diff(env_steps) > 0)),
        f"env_steps are {env_steps}; they must ascend on one axis, at least {fewest} of them.",
    )
    require(
        curves.shape[-1:] == env_steps.shape,
        f"There are {env_steps.size} env steps and curves of shape {curves.shape}; the last axis "
        "must be time, one score for every env step.",
    )
    return env_steps, curves
