"""Is one algorithm better than another? The probability of improvement, and its interval."""

import numpy as np
from jaxtyping import Real

from dime.errors import require
from dime.statistics.bootstrap import Draws, percentile_interval
from dime.statistics.scores import Values, as_scores

ScoresX = Real[np.ndarray, "*batch runs_x tasks"]
ScoresY = Real[np.ndarray, "*batch runs_y tasks"]


def probability_of_improvement(scores_x: ScoresX, scores_y: ScoresY) -> Values:
    """How likely a run of X beats a run of Y on the same task, averaged over tasks.

    On each task it is the share of pairs of runs in which X has the higher score; a tie counts one
    half. This is the Mann-Whitney U statistic over the number of pairs (Agarwal et al. 2021,
    section 4). It says how often, not by how much, and needs no common unit among tasks.

    Args:
        scores_x: (..., runs of X, tasks).
        scores_y: (..., runs of Y, tasks), in the units of `scores_x`, the tasks in the same order;
            the numbers of runs may differ.

    Returns:
        (...), in [0, 1]; NaN where one of the scores is.

    Raises:
        DimeError: there are no runs or no tasks, or tasks or leading axes differ.

    >>> float(probability_of_improvement(np.array([[1.0], [3.0]]), np.array([[1.0], [2.0]])))
    0.625
    """
    scores_x, scores_y = _as_pair(scores_x, scores_y)
    x, y = scores_x[..., :, None, :], scores_y[..., None, :, :]  # (..., runs_x, runs_y, tasks)
    pairs_and_tasks = (-3, -2, -1)
    above = (x > y).mean(axis=pairs_and_tasks)
    at_least = (x >= y).mean(axis=pairs_and_tasks)
    unknown = np.isnan(scores_x).any(axis=(-2, -1)) | np.isnan(scores_y).any(axis=(-2, -1))
    return np.asarray(np.where(unknown, np.nan, 0.5 * (above + at_least)))


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
    An interval below or above one half says which algorithm is better; one that holds one half does
    not say that they are equal.

    Args:
        scores_x: (..., runs of X, tasks).
        scores_y: (..., runs of Y, tasks), as for `probability_of_improvement`.
        num_resamples: how many times the runs are drawn.
        seed: of these draws, at least 0.
        confidence: share of the resampled probabilities within the interval, in (0, 1).

    Returns:
        The lower and the upper end, each (...); NaN where one of the scores is.

    Raises:
        DimeError: there are no runs or no tasks, tasks or leading axes differ, or an option is out
            of range.

    >>> x, y = np.arange(2.0, 12.0)[:, None], np.arange(10.0)[:, None]
    >>> low, high = improvement_interval(x, y)
    >>> round(float(low), 2), round(float(high), 2)
    (0.41, 0.89)
    """
    draws = Draws(num_resamples, seed, confidence)
    pair = _as_pair(scores_x, scores_y)
    return percentile_interval(probability_of_improvement, pair, draws)


def _as_pair(scores_x: np.ndarray, scores_y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = as_scores(scores_x), as_scores(scores_y)
    require(
        x.shape[:-2] == y.shape[:-2] and x.shape[-1] == y.shape[-1],
        f"scores_x has shape {x.shape} and scores_y {y.shape}; all axes but the one before the "
        "last, the runs, must be the same: the same tasks in the same order.",
    )
    return x, y
