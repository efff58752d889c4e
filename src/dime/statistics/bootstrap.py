"""How much a statistic would vary over other seeds: stratified bootstrap intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from dime.errors import require
from dime.statistics.aggregates import iqm
from dime.statistics.scores import Scores, as_scores

Ends = tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]
"""The lower and the upper end of an interval, each in the statistic's shape."""

_NUMBERS_AT_ONCE = 1_000_000  # of drawn scores, and of resampled statistics, in memory: 8 MB


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
        scores: (..., runs, tasks), any unit.
        statistic: from (..., runs, tasks) to (...), or to (..., more): a performance profile, say.
        num_resamples: how many times the runs are drawn.
        seed: of these draws, at least 0.
        confidence: share of the resampled statistics within the interval, in (0, 1).

    Returns:
        The lower and the upper end, each in the statistic's shape and unit; NaN where one of the
        resampled statistics is.

    Raises:
        DimeError: there are no runs or no tasks, an option is out of range, or the statistic does
            not keep the leading axes.

    >>> low, high = bootstrap_interval(np.arange(10.0)[:, None])
    >>> round(float(low), 2), round(float(high), 2)
    (2.17, 6.83)
    """
    draws = Draws(num_resamples, seed, confidence)
    return percentile_interval(statistic, [as_scores(scores)], draws)


@dataclass(frozen=True)
class Draws:
    """How runs are drawn, and how much of what comes out is within the interval."""

    num_resamples: int
    seed: int
    confidence: float

    def __post_init__(self):
        number, seed, share = self.num_resamples, self.seed, self.confidence
        require(number >= 1, f"num_resamples is {number}; it must be at least 1.")
        require(seed >= 0, f"seed is {seed}; it must be at least 0.")
        require(0.0 < share < 1.0, f"confidence is {share}; it must be between 0 and 1.")


def percentile_interval(
    statistic: Callable[..., np.ndarray], samples: Sequence[np.ndarray], draws: Draws
) -> Ends:
    """The percentile interval of a statistic of independent samples, each drawn by itself.

    Args:
        statistic: from one array (..., runs, tasks) per sample to (...) or (..., more).
        samples: one array each, with the same leading axes.
        draws: how often and from which seed runs are drawn, and the interval's share.
    """
    batch = samples[0].shape[:-2]
    flat = [scores.reshape(-1, *scores.shape[-2:]) for scores in samples]
    num_parts = -(-len(flat[0]) * draws.num_resamples // _NUMBERS_AT_ONCE)
    num_parts = max(1, min(num_parts, len(flat[0])))
    outside = (1.0 - draws.confidence) / 2.0
    ends = [
        np.quantile(_resample(statistic, part, draws), [outside, 1.0 - outside], axis=1)
        for part in zip(*(np.array_split(scores, num_parts) for scores in flat), strict=True)
    ]
    low, high = np.concatenate(ends, axis=1)
    shape = (*batch, *low.shape[1:])
    return low.reshape(shape), high.reshape(shape)


def _resample(
    statistic: Callable[..., np.ndarray], samples: Sequence[np.ndarray], draws: Draws
) -> np.ndarray:
    """Statistics of samples (batch, runs, tasks) drawn again: (batch, resamples)."""
    numbers = max(1, sum(scores.size for scores in samples))
    at_once = max(1, min(draws.num_resamples, _NUMBERS_AT_ONCE // numbers))
    # A generator for each sample, so that what it draws does not depend on `at_once`.
    generators = [np.random.default_rng([draws.seed, place]) for place in range(len(samples))]
    resampled = []
    for start in range(0, draws.num_resamples, at_once):
        num = min(at_once, draws.num_resamples - start)
        drawn = [_draw(*pair, num) for pair in zip(samples, generators, strict=True)]
        resampled.append(np.asarray(statistic(*drawn)))
        shape, expected = resampled[-1].shape, drawn[0].shape[:-2]
        require(
            shape[:2] == expected,
            f"The statistic made {shape} of scores {drawn[0].shape}; it must keep the leading axes "
            "and work over the last two, runs and tasks.",
        )
    return np.concatenate(resampled, axis=1)


def _draw(scores: np.ndarray, generator: np.random.Generator, num: int) -> np.ndarray:
    """Runs drawn with replacement within each task: (batch, num, runs, tasks)."""
    num_batch, num_runs, num_tasks = scores.shape
    runs = generator.integers(num_runs, size=(num, num_runs, num_tasks))
    places = runs * num_tasks + np.arange(num_tasks)  # in the flattened scores
    return np.take(scores.reshape(num_batch, num_runs * num_tasks), places, axis=1)
