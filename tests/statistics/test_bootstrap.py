import tracemalloc
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from dime.errors import DimeError
from dime.statistics import bootstrap_interval, iqm, mean, median, performance_profile

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 4))
FINITE = st.floats(-1e6, 1e6)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_the_interval_of_the_smallest_sample_is_known():
    # The means of two draws from 0 and 1 are 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4.
    scores = np.array([[0.0], [1.0]])
    assert bootstrap_interval(scores, mean, confidence=0.4) == (0.5, 0.5)
    assert bootstrap_interval(scores, mean, confidence=0.6) == (0.0, 1.0)


def test_the_interval_of_a_mean_is_the_known_one():
    # The standard error of a mean, from the plug-in variance.
    scores = normal(200, 1)
    low, high = bootstrap_interval(scores, mean, num_resamples=20_000)
    half = 1.96 * scores.std() / np.sqrt(200)
    np.testing.assert_allclose(
        [low, high], [scores.mean() - half, scores.mean() + half], atol=0.005
    )


@pytest.mark.parametrize("statistic, scipys", [(mean, np.mean), (iqm, stats.trim_mean)])
def test_the_interval_is_scipys(statistic, scipys):
    scores = normal(10, 1)
    options = {} if scipys is np.mean else {"proportiontocut": 0.25}
    expected = stats.bootstrap(
        (scores[:, 0],), partial(scipys, **options), n_resamples=20_000, method="percentile", rng=0
    ).confidence_interval
    low, high = bootstrap_interval(scores, statistic, num_resamples=20_000)
    # Monte-Carlo error of a 2.5 % quantile: 0.019 standard deviations, each
    np.testing.assert_allclose([low, high], expected, atol=0.03 * (high - low))


def test_the_interval_is_seeded_and_contains_the_statistic():
    scores = normal(10, 1)
    low, high = bootstrap_interval(scores)
    assert bootstrap_interval(scores) == (low, high)
    assert bootstrap_interval(scores, seed=1) != (low, high)
    assert low < iqm(scores) < high
    narrow = bootstrap_interval(scores, confidence=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_the_interval_is_batched_over_leading_axes():
    scores = normal(6, 2, 5, 2)
    low, high = bootstrap_interval(scores)
    assert low.shape == high.shape == (6, 2)
    looped = np.array([[bootstrap_interval(entry) for entry in row] for row in scores])
    np.testing.assert_allclose(np.stack([low, high], axis=-1), looped, rtol=1e-12)


@pytest.mark.parametrize("at_once", [1, 777, 3000])
def test_what_fits_into_memory_at_once_does_not_matter(at_once, monkeypatch):
    scores = normal(6, 5, 2)
    ends = bootstrap_interval(scores, num_resamples=300)
    monkeypatch.setattr("dime.statistics._NUMBERS_AT_ONCE", at_once)
    np.testing.assert_array_equal(bootstrap_interval(scores, num_resamples=300), ends)


def test_curves_of_the_published_size_take_little_memory():
    tracemalloc.start()
    bootstrap_interval(normal(42, 10, 13), num_resamples=10_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6  # bytes; all resamples at once are 437 MB


def test_a_statistic_may_have_axes_of_its_own():
    scores, thresholds = normal(3, 8, 2), np.array([-0.5, 0.0, 0.5, 1.0])
    low, high = bootstrap_interval(scores, partial(performance_profile, thresholds=thresholds))
    assert low.shape == high.shape == (3, 4)
    for place, bound in enumerate(thresholds):
        expected = bootstrap_interval(1.0 * (scores > bound), mean)
        np.testing.assert_allclose([low[:, place], high[:, place]], expected, rtol=1e-12)


def test_runs_are_drawn_within_each_task():
    # Each task's runs agree, tasks do not: nothing varies, unless values move between tasks.
    scores = np.tile([1.0, 10.0, 100.0, 1000.0], (5, 1))
    assert bootstrap_interval(scores, mean) == (mean(scores), mean(scores))


def test_tasks_are_drawn_independently_of_each_other():
    # Two tasks with opposite scores: were whole rows drawn, the mean would not vary.
    scores = np.array([[1.0, -1.0], [2.0, -2.0], [5.0, -5.0], [9.0, -9.0]])
    low, high = bootstrap_interval(scores, mean)
    assert low < -0.5 and high > 0.5


def test_the_same_runs_are_drawn_along_the_leading_axes():
    # The second point is the first one turned round, so its interval is as well.
    scores = normal(7, 2)
    low, high = bootstrap_interval(np.stack([scores, -scores]), mean, confidence=0.9)
    np.testing.assert_allclose(low[0], -high[1], rtol=1e-9)
    np.testing.assert_allclose(high[0], -low[1], rtol=1e-9)


@pytest.mark.parametrize("statistic, least", [(mean, 0.88), (iqm, 0.86)])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(statistic, least):
    # 300 experiments of 10 runs around 0, one per leading entry; percentile intervals of few runs
    # are too narrow: 95 % intervals of a mean cover it in 90 % (exact, normal scores).
    low, high = bootstrap_interval(normal(300, 10, 1), statistic, num_resamples=1000)
    coverage = np.mean((low < 0.0) & (high > 0.0))
    assert least < coverage < 0.96


@settings(max_examples=20)
@given(hnp.arrays(np.float64, SHAPES, elements=FINITE), st.integers(0, 99))
def test_the_interval_lies_within_the_scores(scores, seed):
    low, high = bootstrap_interval(scores, num_resamples=50, seed=seed)
    slack = 1e-9 * (1 + np.abs(scores).max())
    assert scores.min() - slack <= low <= high <= scores.max() + slack


@settings(max_examples=20)
@given(
    hnp.arrays(np.float64, SHAPES, elements=st.integers(-1000, 1000)),
    st.integers(1, 9),
    st.integers(-9, 9),
)
def test_the_interval_has_the_scores_unit(scores, scale, shift):
    ends = np.array(bootstrap_interval(scores, num_resamples=50))
    moved = bootstrap_interval(scale * scores + shift, num_resamples=50)
    np.testing.assert_allclose(moved, scale * ends + shift, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("statistic", [iqm, mean, median])
def test_a_score_that_is_not_a_number_makes_the_interval_none(statistic):
    scores = np.stack([normal(8, 2), normal(8, 2)])
    scores[1, 3, 0] = np.nan
    low, high = bootstrap_interval(scores, statistic)
    assert np.isnan(low).tolist() == np.isnan(high).tolist() == [False, True]


@pytest.mark.parametrize(
    "options", [{"confidence": 1.0}, {"confidence": 0.0}, {"num_resamples": 0}, {"seed": -1}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(DimeError, match=next(iter(options))):
        bootstrap_interval(normal(3, 1), **options)


def test_there_is_nothing_to_draw_from():
    with pytest.raises(DimeError, match="no runs"):
        bootstrap_interval(np.zeros((0, 2)))


@pytest.mark.parametrize("statistic", [np.mean, partial(np.mean, axis=0)])
def test_a_statistic_over_other_axes_is_refused(statistic):
    with pytest.raises(DimeError, match="must keep the leading axes"):
        bootstrap_interval(normal(4, 3, 2), statistic)
