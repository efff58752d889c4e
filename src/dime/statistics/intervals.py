"""How sure one can be: stratified bootstrap intervals, and whether one algorithm beats another."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Real

from dime.errors import require
from dime.statistics.aggregates import Scores, Values, as_scores, iqm

ScoresX = Real[np.ndarray, "*batch runs_x tasks"]
ScoresY = Real[np.ndarray, "*batch runs_y tasks"]
Ends = tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]
"""The lower and the upper end of an interval, each in the statistic's shape."""

_NUMBERS_AT_ONCE = 1_000_000  # drawn scores in memory: 8 MB


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
    return _percentile_interval(statistic, [as_scores(scores)], num_resamples, seed, confidence)


def probability_of_improvement(scores_x: ScoresX, scores_y: ScoresY) -> Values:
    """How likely a run of X beats a run of Y on the same task, averaged over tasks.

    On each task it is the share of pairs of runs in which X has the higher score; a tie counts one
    half. This is the Mann-Whitney U statistic over the number of pairs (Agarwal et al. 2021,
    section 4). It says how often, not by how much, and needs no common unit among tasks.

    The tasks must be the same in the same order; the numbers of runs may differ.

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
    does not say that they are equal.

    The scores are as for `probability_of_improvement`, the options as for `bootstrap_interval`.

    >>> x, y = np.arange(2.0, 12.0)[:, None], np.arange(10.0)[:, None]
    >>> low, high = improvement_interval(x, y)
    >>> round(float(low), 2), round(float(high), 2)
    (0.41, 0.89)
    """
    pair = _as_pair(scores_x, scores_y)
    return _percentile_interval(probability_of_improvement, pair, num_resamples, seed, confidence)


def _as_pair(scores_x: np.ndarray, scores_y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = as_scores(scores_x), as_scores(scores_y)
    require(
        x.shape[:-2] == y.shape[:-2] and x.shape[-1] == y.shape[-1],
        f"scores_x has shape {x.shape} and scores_y {y.shape}; all axes but the one before the "
        "last, the runs, must be the same: the same tasks in the same order.",
    )
    return x, y


def _percentile_interval(
    statistic: Callable[..., np.ndarray],
    samples: Sequence[np.ndarray],
    num_resamples: int,
    seed: int,
    confidence: float,
) -> Ends:
    """The interval of a statistic of samples (..., runs, tasks) with the same leading axes."""
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
