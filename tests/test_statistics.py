import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from dime.errors import DimeError
from dime.statistics import bootstrap_interval, iqm

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 4))
FINITE = st.floats(-1e6, 1e6)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@given(hnp.arrays(np.float64, SHAPES, elements=FINITE))
def test_the_iqm_is_scipys_trimmed_mean(scores):
    expected = stats.trim_mean(scores, 0.25, axis=None)
    np.testing.assert_allclose(iqm(scores), expected, rtol=1e-12, atol=1e-6)


def test_the_iqm_by_hand():
    # eight values, two cut off at each end
    scores = np.array([[90.0, 1.0], [2.0, 3.0], [4.0, 6.0], [-80.0, 7.0]])
    assert iqm(scores) == pytest.approx((2 + 3 + 4 + 6) / 4)
    assert iqm(np.array([[1.0], [2.0], [6.0]])) == pytest.approx(3.0)  # too few to cut


def test_the_iqm_is_batched_over_leading_axes():
    scores = normal(5, 2, 7, 3)
    assert iqm(scores).shape == (5, 2)
    looped = [[iqm(scores[i, j]) for j in range(2)] for i in range(5)]
    np.testing.assert_array_equal(iqm(scores), looped)


def test_a_score_that_is_not_a_number_is_not_cut_off_as_an_outlier():
    scores = np.arange(8.0)[:, None].copy()
    scores[3] = np.nan
    assert np.isnan(iqm(scores))
    assert np.isnan(bootstrap_interval(scores)[0])


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_there_is_no_mean_of_nothing(shape):
    with pytest.raises(DimeError, match="does not exist"):
        iqm(np.zeros(shape))


def test_the_interval_is_seeded_and_contains_the_statistic():
    scores = normal(10, 1)
    low, high = bootstrap_interval(scores)
    assert bootstrap_interval(scores) == (low, high)
    assert bootstrap_interval(scores, seed=1) != (low, high)
    assert low < iqm(scores) < high
    narrow = bootstrap_interval(scores, confidence=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_the_interval_is_batched_over_leading_axes(monkeypatch):
    scores = normal(6, 5, 2)
    low, high = bootstrap_interval(scores)
    looped = np.array([bootstrap_interval(row) for row in scores])
    np.testing.assert_allclose(np.stack([low, high], axis=1), looped, rtol=1e-12)
    monkeypatch.setattr("dime.statistics._NUMBERS_AT_ONCE", 777)
    np.testing.assert_array_equal(bootstrap_interval(scores), (low, high))


def test_runs_are_drawn_within_each_task():
    # Each task's runs agree, tasks do not: nothing varies, unless values move between tasks.
    scores = np.tile([1.0, 10.0, 100.0, 1000.0], (5, 1))
    low, high = bootstrap_interval(scores, lambda x: x.mean(axis=(-2, -1)))
    assert low == high == scores.mean()


def test_tasks_are_drawn_independently_of_each_other():
    # Two tasks with opposite scores: were whole rows drawn, the mean would not vary.
    scores = np.array([[1.0, -1.0], [2.0, -2.0], [5.0, -5.0], [9.0, -9.0]])
    low, high = bootstrap_interval(scores, lambda x: x.mean(axis=(-2, -1)))
    assert low < -0.5 and high > 0.5


def test_the_interval_of_a_mean_is_the_known_one():
    # The standard error of a mean, from the plug-in variance.
    scores = normal(200, 1)
    low, high = bootstrap_interval(scores, lambda x: x.mean(axis=(-2, -1)), num_resamples=20_000)
    half = 1.96 * scores.std() / np.sqrt(200)
    np.testing.assert_allclose(
        [low, high], [scores.mean() - half, scores.mean() + half], atol=0.005
    )


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    # 400 experiments of 20 runs whose IQM is 0; percentile intervals are a little too narrow.
    low, high = np.array(
        [bootstrap_interval(normal(20, 1, seed=i), num_resamples=400, seed=i) for i in range(400)]
    ).T
    coverage = np.mean((low < 0) & (high > 0))
    assert 0.88 < coverage < 0.98


@settings(max_examples=20)
@given(hnp.arrays(np.float64, SHAPES, elements=FINITE), st.integers(0, 99))
def test_the_interval_lies_within_the_scores(scores, seed):
    low, high = bootstrap_interval(scores, num_resamples=50, seed=seed)
    slack = 1e-9 * (1 + np.abs(scores).max())
    assert scores.min() - slack <= low <= high <= scores.max() + slack


@pytest.mark.parametrize(
    "options", [{"confidence": 1.0}, {"confidence": 0.0}, {"num_resamples": 0}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(DimeError, match=next(iter(options))):
        bootstrap_interval(normal(3, 1), **options)
    with pytest.raises(DimeError, match="no runs"):
        bootstrap_interval(np.zeros((0, 2)))
