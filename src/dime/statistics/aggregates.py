"""One number, or one profile, for all runs on all tasks."""

import numpy as np
from jaxtyping import Float, Real

from dime.errors import DimeError, require

Scores = Real[np.ndarray, "*batch runs tasks"]
Values = Float[np.ndarray, "*batch"]
_BOTH = (-2, -1)  # runs and tasks


def as_scores(scores: np.ndarray) -> Float[np.ndarray, "*batch runs tasks"]:
    """The same numbers in double precision; refuses what is not an array of scores.

    >>> as_scores(np.arange(3))
    Traceback (most recent call last):
    ...
    dime.errors.DimeError: Scores of shape (3,) lack an axis; they need (..., runs, tasks). For the
    runs of one task pass scores[:, None].
    """
    try:
        scores = np.asarray(scores, np.float64)
    except (TypeError, ValueError) as error:  # text, or runs of different lengths
        raise DimeError(
            f"Scores must be an array of numbers, (..., runs, tasks); these are not ({error})."
        ) from error
    require(
        scores.ndim >= 2,
        f"Scores of shape {scores.shape} lack an axis; they need (..., runs, tasks). For the runs "
        "of one task pass scores[:, None].",
    )
    require(
        0 not in scores.shape[-2:],
        f"There are no runs or no tasks in scores of shape {scores.shape}, (..., runs, tasks).",
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
    scores = as_scores(scores)
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
    return np.asarray(np.median(as_scores(scores).mean(axis=-2), axis=-1))


def mean(scores: Scores) -> Values:
    """The mean over runs and tasks, which a single outlier can move anywhere.

    >>> float(mean(np.array([[1.0, 2.0], [3.0, 10.0]])))
    4.0
    """
    return np.asarray(as_scores(scores).mean(axis=_BOTH))


def optimality_gap(scores: Scores, threshold: float = 1.0) -> Values:
    """How far the runs stay below a threshold, on average; what is above it earns nothing.

    The mean of max(threshold - score, 0): lower is better (Agarwal et al. 2021, section 4). The
    threshold is in the scores' unit; 1 suits normalised scores.

    >>> float(optimality_gap(np.array([[0.5, 2.0], [0.75, 0.75]])))
    0.25
    """
    return np.asarray(np.maximum(threshold - as_scores(scores), 0.0).mean(axis=_BOTH))


def performance_profile(
    scores: Scores, thresholds: Real[np.ndarray, "thresholds"]
) -> Float[np.ndarray, "*batch thresholds"]:
    """The share of runs whose score is strictly above each threshold, averaged over tasks.

    This is the run-score distribution (Agarwal et al. 2021, section 4): every run counts by
    itself, so a task on which half of the runs succeed contributes one half. For scores that are
    not negative the area under the profile, from threshold 0 up, is their mean.

    Thresholds are in the scores' unit, in any order; no threshold, or one that is NaN, is a
    `DimeError`.

    >>> performance_profile(np.array([[0.2, 1.0], [0.4, 0.4]]), np.array([0.0, 0.3, 0.4]))
    array([1.  , 0.75, 0.25])
    """
    scores = as_scores(scores)
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
    scores = as_scores(scores)
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
