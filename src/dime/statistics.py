"""Statistics over few runs, after Agarwal et al. 2021.

"Deep Reinforcement Learning at the Edge of the Statistical Precipice" (NeurIPS 2021). Scores are
arrays (..., runs, tasks) in any unit; over several tasks the unit must be the same, so scores are
normalised first. One task is an axis of length one.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from dime.errors import require

Scores = Float[np.ndarray, "*batch runs tasks"]
Values = Float[np.ndarray, "*batch"]

_NUMBERS_AT_ONCE = 4_000_000  # of resampled scores in memory: 32 MB


def iqm(scores: Scores) -> Values:
    """The interquartile mean over runs and tasks together: the mean of the middle half.

    A quarter of the values (rounded down) is cut off at each end: robust to outliers as the median
    is, and less noisy. Equals `scipy.stats.trim_mean(x, 0.25, axis=None)` of the last two axes.

    Args:
        scores: (..., runs, tasks), any unit.

    Returns:
        (...), in the scores' unit; NaN where one of the scores is.

    Raises:
        DimeError: there are no runs or no tasks.

    >>> float(iqm(np.array([[1.0], [2.0], [4.0], [100.0]])))
    3.0
    >>> iqm(np.arange(12.0).reshape(2, 3, 2))
    array([2.5, 8.5])
    """
    num_runs, num_tasks = scores.shape[-2:]
    count = num_runs * num_tasks
    require(count > 0, f"The mean over {num_runs} runs and {num_tasks} tasks does not exist.")
    ordered = np.sort(scores.reshape(*scores.shape[:-2], count), axis=-1)
    cut = count // 4
    middle = ordered[..., cut : count - cut].mean(axis=-1)
    # NaNs are sorted to the end, where they would be cut off as if they were good scores.
    return np.asarray(np.where(np.isnan(ordered[..., -1]), np.nan, middle))


def bootstrap_interval(
    scores: Scores,
    statistic: Callable[[np.ndarray], np.ndarray] = iqm,
    num_resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[Values, Values]:
    """The stratified percentile bootstrap interval of a statistic over runs and tasks.

    Runs are drawn with replacement within each task (Agarwal et al. 2021, section 3); the interval
    says how much the statistic would vary over other seeds on the same tasks. Along the leading
    axes (env steps of a curve, say) the same runs are drawn.

    Args:
        scores: (..., runs, tasks), any unit.
        statistic: from (..., runs, tasks) to (...).
        num_resamples: how many times the runs are drawn.
        seed: of these draws.
        confidence: share of the resampled statistics within the interval, in (0, 1).

    Returns:
        The lower and the upper end, each (...), in the statistic's unit.

    Raises:
        DimeError: there are no runs or no tasks, `num_resamples` is below one, or `confidence` is
            not between 0 and 1.

    >>> low, high = bootstrap_interval(np.arange(10.0)[:, None])
    >>> round(float(low), 3), round(float(high), 3)
    (2.167, 6.833)
    """
    require(0.0 < confidence < 1.0, f"confidence is {confidence}; it must be between 0 and 1.")
    require(num_resamples >= 1, f"num_resamples is {num_resamples}; it must be at least 1.")
    num_runs, num_tasks = scores.shape[-2:]
    require(num_runs > 0, "There are no runs to draw from.")
    runs = np.random.default_rng(seed).integers(num_runs, size=(num_resamples, num_runs, num_tasks))
    num_chunks = -(-num_resamples * scores.size // _NUMBERS_AT_ONCE)
    resampled = [
        # chunk: (resamples, runs, tasks), which run stands in each place
        statistic(scores[..., chunk, np.arange(num_tasks)])
        for chunk in np.array_split(runs, max(1, min(num_chunks, num_resamples)))
    ]
    outside = (1.0 - confidence) / 2.0
    ends = np.quantile(np.concatenate(resampled, axis=-1), [outside, 1.0 - outside], axis=-1)
    return np.asarray(ends[0]), np.asarray(ends[1])
