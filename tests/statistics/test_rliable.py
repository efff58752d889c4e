"""The same numbers as the library of the authors of the method."""

import warnings
from functools import partial

import numpy as np
import pytest

from dime.statistics import (
    bootstrap_interval,
    improvement_interval,
    iqm,
    mean,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what it imports
    from rliable import library, metrics

POINTS = [
    (iqm, metrics.aggregate_iqm),
    (mean, metrics.aggregate_mean),
    (median, metrics.aggregate_median),
    (optimality_gap, metrics.aggregate_optimality_gap),
    (partial(optimality_gap, threshold=0.3), partial(metrics.aggregate_optimality_gap, gamma=0.3)),
]
NUM_RESAMPLES = 5000  # of theirs, one after the other; ours are 20 000
# Monte-Carlo error of a 2.5 % quantile of a normal law: 0.038 standard deviations, each 1/3.92 of
# the width, with theirs; 0.019 with ours. Four times that of their difference:
SLACK = 4 * np.hypot(0.038, 0.019) / 3.92


def scores(num_runs, num_tasks, seed=0):
    """Tasks of different difficulty and noise, with a heavy tail and some equal scores."""
    generator = np.random.default_rng(seed)
    level, noise = generator.uniform(0, 1, num_tasks), generator.uniform(0.05, 0.4, num_tasks)
    return (level + noise * generator.standard_t(4, (num_runs, num_tasks))).round(2)


@pytest.mark.parametrize("shape", [(10, 13), (3, 1), (1, 4), (7, 5), (100, 2)])
@pytest.mark.parametrize("ours, theirs", POINTS)
def test_point_statistics(ours, theirs, shape):
    np.testing.assert_allclose(ours(scores(*shape)), theirs(scores(*shape)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_y", [10, 6])
def test_probability_of_improvement(num_y):
    x, y = scores(10, 13), scores(num_y, 13, seed=0) + 0.05
    expected = metrics.probability_of_improvement(x, y)
    np.testing.assert_allclose(probability_of_improvement(x, y), expected, rtol=0, atol=1e-12)
    assert metrics.probability_of_improvement(x, x) == probability_of_improvement(x, x) == 0.5


@pytest.mark.parametrize("ours, theirs", POINTS[:4])
def test_intervals(ours, theirs):
    runs = scores(10, 5)
    np.random.seed(0)  # the generator that theirs draws from
    _, intervals = library.get_interval_estimates(
        {"x": runs}, lambda x: np.array([theirs(x)]), reps=NUM_RESAMPLES
    )
    low, high = bootstrap_interval(runs, ours, num_resamples=20_000)
    np.testing.assert_allclose([low, high], intervals["x"][:, 0], atol=SLACK * (high - low))


def test_interval_of_the_probability_of_improvement():
    x, y = scores(8, 2), scores(6, 2, seed=1)
    np.random.seed(0)
    _, intervals = library.get_interval_estimates(
        {"x,y": (x, y)},
        lambda a, b: np.array([metrics.probability_of_improvement(a, b)]),
        reps=1000,
    )
    low, high = improvement_interval(x, y, num_resamples=20_000)
    slack = SLACK * np.sqrt(NUM_RESAMPLES / 1000)
    np.testing.assert_allclose([low, high], intervals["x,y"][:, 0], atol=slack * (high - low))


def test_profiles_and_their_intervals():
    runs, thresholds = scores(10, 5), np.linspace(-0.2, 1.5, 18).round(2)
    np.random.seed(0)
    profiles, intervals = library.create_performance_profile({"x": runs}, thresholds, reps=1000)
    ours = performance_profile(runs, thresholds)
    np.testing.assert_allclose(ours, profiles["x"], rtol=0, atol=1e-12)
    ends = bootstrap_interval(
        runs, partial(performance_profile, thresholds=thresholds), num_resamples=20_000
    )
    # Shares of 50 scores: a quantile may be one step of 0.02 away.
    np.testing.assert_allclose(ends, intervals["x"], atol=0.021)
