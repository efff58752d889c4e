"""What a score array is, and the refusal of what is none."""

import numpy as np
from jaxtyping import Float, Real

from dime.errors import DimeError, require

Scores = Real[np.ndarray, "*batch runs tasks"]
Values = Float[np.ndarray, "*batch"]


def as_scores(scores: np.ndarray) -> Float[np.ndarray, "*batch runs tasks"]:
    """The same numbers in double precision.

    Raises:
        DimeError: they are no array of numbers, or there are no two axes, no runs or no tasks.

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
            f"Scores are an array of numbers, (..., runs, tasks); these are none ({error})."
        ) from error
    require(
        scores.ndim >= 2,
        f"Scores of shape {scores.shape} lack an axis; they need (..., runs, tasks). For the runs "
        "of one task pass scores[:, None].",
    )
    num_runs, num_tasks = scores.shape[-2:]
    require(
        num_runs > 0 and num_tasks > 0,
        f"There are no runs or no tasks in scores of shape {scores.shape}, so there is no "
        "statistic of them; the last two axes are runs and tasks.",
    )
    return scores
