"""One number of a learning curve: the area under it, and how soon it reaches a score.

Here time is the last axis. Statistics over runs and tasks have it in front:
`iqm(np.moveaxis(curves, -1, 0))` of curves (runs, tasks, time) is a curve (time,).
"""

import numpy as np
from jaxtyping import Real

from dime.errors import require
from dime.statistics.scores import Values

EnvSteps = Real[np.ndarray, "time"]
Curves = Real[np.ndarray, "*batch time"]


def area_under_curve(env_steps: EnvSteps, scores: Curves) -> Values:
    """The mean score along the curve: the area under it, divided by the span of env steps.

    Between two env steps the curve is a straight line (the trapezoid rule), so unevenly spaced
    evaluations weigh as much as the env steps around them.

    Args:
        env_steps: (time,), ascending, at least two.
        scores: (..., time), any unit.

    Returns:
        (...), in the scores' unit; NaN where one of the curve's scores is.

    Raises:
        DimeError: there are fewer than two env steps, they do not ascend, or the curve has another
            number of points.

    >>> float(area_under_curve(np.array([0, 100, 400]), np.array([0.0, 1.0, 1.0])))
    0.875
    """
    env_steps, scores = _as_curves(env_steps, scores, 2)
    span = env_steps[-1] - env_steps[0]
    return np.asarray(np.trapezoid(scores, env_steps, axis=-1) / span)


def steps_to_score(env_steps: EnvSteps, curve: Curves, score: float) -> Values:
    """The first env step at which the curve, straight between its points, is at least `score`.

    A curve that begins at the score or above it has the first env step, and one that falls below
    it later keeps its answer. One that never gets there has NaN, since when it would is not known;
    so has one with a NaN anywhere. A mean over curves is then NaN too: report how many got there,
    or take the steps of the mean curve, `steps_to_score(env_steps, iqm(...), score)`.

    Args:
        env_steps: (time,), ascending, at least one.
        curve: (..., time), any unit.
        score: in the same unit.

    Returns:
        (...), env steps, not rounded.

    Raises:
        DimeError: there are no env steps, they do not ascend, or the curve has another number of
            points.

    >>> float(steps_to_score(np.array([0, 100, 200]), np.array([0.0, 4.0, 8.0]), 5.0))
    125.0
    """
    env_steps, curve = _as_curves(env_steps, curve, 1)
    reached = curve >= score
    after = reached.argmax(axis=-1)  # the first point that is there, 0 where none is
    before = np.maximum(after - 1, 0)
    top = np.take_along_axis(curve, after[..., None], axis=-1)[..., 0]
    bottom = np.take_along_axis(curve, before[..., None], axis=-1)[..., 0]
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
