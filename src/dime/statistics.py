"""Statistics over few runs, after Agarwal et al. 2021 (docs/statistics.md).

- Scores are arrays (..., runs, tasks), in any unit. One task is an axis of length one. Several
  tasks need the same unit: `normalise` first.
- In learning curves time is the last axis. Statistics over runs and tasks need it in front:
  `iqm(np.moveaxis(curves, -1, 0))` of curves (runs, tasks, time) is a curve (time,).
- Statistics keep the leading axes and the unit. A NaN among the scores makes their statistic NaN.
- `DimeError` is raised if there are no runs or no tasks, shapes do not match, env steps do not
  ascend, or an option is out of range.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Real

from dime.errors import DimeError, require

__all__ = [
    "AlignedRuns",
    "align_runs",
    "area_under_curve",
    "bootstrap_interval",
    "improvement_interval",
    "iqm",
    "mean",
    "median",
    "normalise",
    "optimality_gap",
    "performance_profile",
    "probability_of_improvement",
    "steps_to_score",
]

Scores = Real[np.ndarray, "*batch runs tasks"]
ScoresX = Real[np.ndarray, "*batch runs_x tasks"]
ScoresY = Real[np.ndarray, "*batch runs_y tasks"]
Values = Float[np.ndarray, "*batch"]
Ends = tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]  # lower and upper
EnvSteps = Real[np.ndarray, "time"]
Curves = Real[np.ndarray, "*batch time"]
Histories = Mapping[str, Sequence[Mapping[int, float]]]  # task to runs, env step to score

_BOTH = (-2, -1)  # runs and tasks
_NUMBERS_AT_ONCE = 1_000_000  # drawn scores in memory: 8 MB


def _as_scores(scores: np.ndarray) -> Float[np.ndarray, "*batch runs tasks"]:
    try:
        scores = np.asarray(scores, np.float64)
    except (TypeError, ValueError) as error:  # text, or runs of different lengths
        raise DimeError(f"Scores must be an array of numbers: {error}.") from error
    require(
        scores.ndim >= 2 and 0 not in scores.shape[-2:],
        f"There are no runs or no tasks in scores of shape {scores.shape}; they need (..., runs, "
        "tasks). For the runs of one task pass scores[:, None].",
    )
    return scores


def iqm(scores: Scores) -> Values:
    """The interquartile mean over runs and tasks together: the mean of the middle half.

    A quarter of the values (rounded down) is cut off at each end: robust to outliers as the median
    is, and less noisy. Equals `scipy.stats.trim_mean(x, 0.25, axis=None)` of the last two axes.

    >>> float(iqm(np.array([[1.0], [2.0], [4.0], [100.0]])))
    3.0
    >>> iqm(np.arange(12.0).reshape(2, 3, 2))
    array([2.5, 8.5])
    """
    scores = _as_scores(scores)
    count = scores.shape[-2] * scores.shape[-1]
    ordered = np.sort(scores.reshape(*scores.shape[:-2], count), axis=-1)
    cut = count // 4
    middle = ordered[..., cut : count - cut].mean(axis=-1)
    # NaNs are sorted to the end, where they would be cut off as if they were good scores.
    return np.asarray(np.where(np.isnan(ordered[..., -1]), np.nan, middle))


def median(scores: Scores) -> Values:
    """The median over tasks of each task's mean over runs (Agarwal et al. 2021, section 4).

    With one task it is the mean over runs. It ignores how good the better half of the tasks is.

    >>> float(median(np.array([[1.0, 5.0, 90.0], [3.0, 7.0, 10.0]])))
    6.0
    """
    return np.asarray(np.median(_as_scores(scores).mean(axis=-2), axis=-1))


def mean(scores: Scores) -> Values:
    """The mean over runs and tasks, which a single outlier can move anywhere.

    >>> float(mean(np.array([[1.0, 2.0], [3.0, 10.0]])))
    4.0
    """
    return np.asarray(_as_scores(scores).mean(axis=_BOTH))


def optimality_gap(scores: Scores, threshold: float = 1.0) -> Values:
    """How far the runs stay below a threshold, on average; what is above it earns nothing.

    The mean of max(threshold - score, 0): lower is better (Agarwal et al. 2021, section 4). The
    threshold is in the scores' unit; 1 suits normalised scores.

    >>> float(optimality_gap(np.array([[0.5, 2.0], [0.75, 0.75]])))
    0.25
    """
    return np.asarray(np.maximum(threshold - _as_scores(scores), 0.0).mean(axis=_BOTH))


def performance_profile(
    scores: Scores, thresholds: Real[np.ndarray, "thresholds"]
) -> Float[np.ndarray, "*batch thresholds"]:
    """The share of runs whose score is strictly above each threshold, averaged over tasks.

    This is the run-score distribution (Agarwal et al. 2021, section 4): every run counts by
    itself. Thresholds are in the scores' unit, in any order.

    >>> performance_profile(np.array([[0.2, 1.0], [0.4, 0.4]]), np.array([0.0, 0.3, 0.4]))
    array([1.  , 0.75, 0.25])
    """
    scores = _as_scores(scores)
    thresholds = np.asarray(thresholds, np.float64)
    require(
        thresholds.ndim == 1 and thresholds.size > 0 and not np.isnan(thresholds).any(),
        f"thresholds are {thresholds}; they must be one or more numbers on one axis.",
    )
    # One after the other: all at once would take as much memory for every threshold.
    unknown = np.where(np.isnan(scores), np.nan, 0.0)
    return np.stack([((scores > bound) + unknown).mean(_BOTH) for bound in thresholds], axis=-1)


def normalise(
    scores: Scores, low: float | Real[np.ndarray, "tasks"], high: float | Real[np.ndarray, "tasks"]
) -> Float[np.ndarray, "*batch runs tasks"]:
    """Scores on a scale on which `low` is 0 and `high` is 1, task by task; nothing is clipped.

    Args:
        scores: (..., runs, tasks), in each task's own unit.
        low: a random policy's score, say; one number for all tasks or one for each.
        high: a reference policy's score, or the largest possible one; above `low`.

    >>> normalise(np.array([[500.0, -10.0]]), np.array([0.0, -20.0]), np.array([1000.0, 20.0]))
    array([[0.5 , 0.25]])
    """
    scores = _as_scores(scores)
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    tasks = scores.shape[-1:]
    require(
        low.shape in ((), tasks) and high.shape in ((), tasks),
        f"low has shape {low.shape} and high {high.shape}; with scores of shape {scores.shape} "
        f"they must be numbers or arrays of shape {tasks}, one bound for every task.",
    )
    span = high - low
    require(
        bool(np.all((span > 0.0) & np.isfinite(span))),
        f"low is {low} and high is {high}; every high must be finite and above its low.",
    )
    return (scores - low) / span


def bootstrap_interval(
    scores: Scores,
    statistic: Callable[[np.ndarray], np.ndarray] = iqm,
    *,
    num_resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Ends:
    """The stratified percentile bootstrap interval of a statistic over runs and tasks.

    Runs are drawn with replacement within each task (Agarwal et al. 2021, section 4); the interval
    says how much the statistic would vary over other seeds on the same tasks. Along the leading
    axes the same runs are drawn, so a curve is (time, runs, tasks). Percentile intervals of few
    runs are too narrow, and with one run they have no width: show one or two runs as they are.

    Args:
        scores: (..., runs, tasks).
        statistic: from (..., runs, tasks) to (...), or to (..., more): a performance profile, say.
        num_resamples: how many times the runs are drawn.
        seed: of these draws, at least 0.
        confidence: share of the resampled statistics within the interval, in (0, 1).

    Returns:
        The lower and the upper end, each in the statistic's shape and unit.

    >>> low, high = bootstrap_interval(np.arange(10.0)[:, None])
    >>> round(float(low), 2), round(float(high), 2)
    (2.17, 6.83)
    """
    return _percentile_interval(statistic, [_as_scores(scores)], num_resamples, seed, confidence)


def probability_of_improvement(scores_x: ScoresX, scores_y: ScoresY) -> Values:
    """How likely a run of X beats a run of Y on the same task, averaged over tasks.

    On each task it is the share of pairs of runs in which X has the higher score; a tie counts one
    half. This is the Mann-Whitney U statistic over the number of pairs (Agarwal et al. 2021,
    section 4). It says how often, not by how much, and needs no common unit among tasks. The tasks
    must be the same in the same order; the numbers of runs may differ.

    >>> float(probability_of_improvement(np.array([[1.0], [3.0]]), np.array([[1.0], [2.0]])))
    0.625
    """
    scores_x, scores_y = _as_pair(scores_x, scores_y)
    x, y = scores_x[..., :, None, :], scores_y[..., None, :, :]  # (..., runs_x, runs_y, tasks)
    return np.asarray(np.heaviside(x - y, 0.5).mean(axis=(-3, -2, -1)))


def improvement_interval(
    scores_x: ScoresX,
    scores_y: ScoresY,
    *,
    num_resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[Values, Values]:
    """The stratified percentile bootstrap interval of the probability of improvement.

    Runs of X and of Y are drawn with replacement within each task, independently of each other.
    An interval below or above one half says which algorithm is better; one that contains one half
    does not say that they are equal. Options are those of `bootstrap_interval`.

    >>> x, y = np.arange(2.0, 12.0)[:, None], np.arange(10.0)[:, None]
    >>> low, high = improvement_interval(x, y)
    >>> round(float(low), 2), round(float(high), 2)
    (0.41, 0.89)
    """
    pair = _as_pair(scores_x, scores_y)
    return _percentile_interval(probability_of_improvement, pair, num_resamples, seed, confidence)


def _as_pair(scores_x: np.ndarray, scores_y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = _as_scores(scores_x), _as_scores(scores_y)
    require(
        x.shape[:-2] == y.shape[:-2] and x.shape[-1] == y.shape[-1],
        f"scores_x has shape {x.shape} and scores_y {y.shape}; all axes but the one before the "
        "last, the runs, must be the same: the same tasks in the same order.",
    )
    return x, y


def _percentile_interval(
    statistic: Callable[..., np.ndarray],
    samples: Sequence[np.ndarray],  # (..., runs, tasks), with the same leading axes
    num_resamples: int,
    seed: int,
    confidence: float,
) -> Ends:
    require(num_resamples >= 1, f"num_resamples is {num_resamples}; it must be at least 1.")
    require(seed >= 0, f"seed is {seed}; it must be at least 0.")
    require(0.0 < confidence < 1.0, f"confidence is {confidence}; it must be between 0 and 1.")
    at_once = max(1, _NUMBERS_AT_ONCE // max(1, sum(scores.size for scores in samples)))
    # A generator for each sample, so that what it draws does not depend on `at_once`.
    generators = [np.random.default_rng([seed, place]) for place in range(len(samples))]
    resampled = []
    for start in range(0, num_resamples, at_once):
        num = min(at_once, num_resamples - start)
        drawn = [_draw(*pair, num) for pair in zip(samples, generators, strict=True)]
        resampled.append(np.asarray(statistic(*drawn)))
        expected, shape = drawn[0].shape[:-2], resampled[-1].shape
        require(
            shape[: len(expected)] == expected,
            f"The statistic made {shape} of scores {drawn[0].shape}; it must keep the leading axes "
            "and work over the last two, runs and tasks.",
        )
    axis = samples[0].ndim - 2  # of the resamples
    outside = (1.0 - confidence) / 2.0
    values = np.concatenate(resampled, axis=axis)
    low, high = np.quantile(values, [outside, 1.0 - outside], axis=axis)
    return low, high


def _draw(scores: np.ndarray, generator: np.random.Generator, num: int) -> np.ndarray:
    """Runs drawn with replacement within each task: (..., num, runs, tasks)."""
    *batch, num_runs, num_tasks = scores.shape
    runs = generator.integers(num_runs, size=(num, num_runs, num_tasks))
    places = runs * num_tasks + np.arange(num_tasks)  # in the flattened scores
    return np.take(scores.reshape(*batch, num_runs * num_tasks), places, axis=-1)


class AlignedRuns(NamedTuple):
    """Runs evaluated at the same env steps, and a line for everything that was left out."""

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
    require(bool(shared), "The runs share no env step. Evaluate them at the same intervals.")
    env_steps = sorted(shared)
    table = [[[run[step] for step in env_steps] for run in runs] for runs in kept.values()]
    scores = np.array(table, np.float64).swapaxes(0, 1)  # (tasks, runs, time) before
    left_out = [
        f"{task}: the last {count - fewest} of {count} runs"
        for task, count in counts.items()
        if count > fewest
    ]
    for task, runs in kept.items():
        recorded = set().union(*runs)
        if recorded > shared:
            left_out.append(f"{task}: {len(recorded - shared)} of {len(recorded)} env steps")
    return AlignedRuns(np.array(env_steps), scores, tuple(left_out))


def area_under_curve(env_steps: EnvSteps, scores: Curves) -> Values:
    """The mean score along the curve: the area under it, divided by the span of env steps.

    Between two env steps, of which it needs at least two, the curve is a straight line (the
    trapezoid rule): unevenly spaced evaluations weigh as much as the env steps around them.

    >>> float(area_under_curve(np.array([0, 100, 400]), np.array([0.0, 1.0, 1.0])))
    0.875
    """
    env_steps, scores = _as_curves(env_steps, scores, 2)
    span = env_steps[-1] - env_steps[0]
    return np.asarray(np.trapezoid(scores, env_steps, axis=-1) / span)


def steps_to_score(env_steps: EnvSteps, curve: Curves, score: float) -> Values:
    """The first env step, not rounded, at which the straight line between points reaches `score`.

    A curve that begins at the score or above it gives the first env step, also if it falls below
    it later. One that never gets there, or has a NaN anywhere, gives NaN.

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
