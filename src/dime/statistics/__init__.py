"""Statistics over few runs, after Agarwal et al. 2021 (docs/statistics.md).

"Deep Reinforcement Learning at the Edge of the Statistical Precipice" (NeurIPS 2021). For all
of them:

- Scores are arrays (..., runs, tasks), in any unit. One task is an axis of length one, and curves
  have time in front, (time, runs, tasks). Several tasks need the same unit: `normalise` first.
- Statistics keep the leading axes and the unit.
- A NaN among the scores makes their statistic NaN; it is never left out.
- `DimeError` is raised if there are no runs or no tasks, shapes do not match, or an option is out
  of range.
"""

from dime.statistics.aggregates import (
    iqm,
    mean,
    median,
    normalise,
    optimality_gap,
    performance_profile,
)
from dime.statistics.curves import AlignedRuns, align_runs, area_under_curve, steps_to_score
from dime.statistics.intervals import (
    bootstrap_interval,
    improvement_interval,
    probability_of_improvement,
)

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
