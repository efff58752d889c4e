"""Statistics over few runs, after Agarwal et al. 2021 (docs/statistics.md).

"Deep Reinforcement Learning at the Edge of the Statistical Precipice" (NeurIPS 2021). Scores are
arrays (..., runs, tasks): one task is an axis of length one, and curves go with time in front,
(time, runs, tasks). Over several tasks the unit must be the same, so scores are normalised first. A
score that is NaN makes its statistic NaN; it is never left out.
"""

from dime.statistics.aggregates import (
    iqm,
    mean,
    median,
    normalise,
    optimality_gap,
    performance_profile,
)
from dime.statistics.alignment import AlignedRuns, align_runs
from dime.statistics.bootstrap import bootstrap_interval
from dime.statistics.comparison import improvement_interval, probability_of_improvement
from dime.statistics.curves import area_under_curve, steps_to_score

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
