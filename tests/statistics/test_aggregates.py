import inspect
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from dime.errors import DimeError
from dime.statistics import iqm, mean, median, normalise, optimality_gap, performance_profile

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 4))
FINITE = st.floats(-1e6, 1e6)
WHOLE = hnp.arrays(np.float64, SHAPES, elements=st.integers(-1000, 1000))
THRESHOLDS = np.array([-1.0, 0.0, 0.3, 2.0])
PROFILE = partial(performance_profile, thresholds=THRESHOLDS)
AVERAGES = [iqm, median, mean]
EVERY = pytest.mark.parametrize("statistic", [*AVERAGES, optimality_gap, PROFILE])


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# Each by hand ------------------------------------------------------------------------------------


def test_the_iqm_by_hand():
    # eight values, two cut off at each end
    scores = np.array([[90.0, 1.0], [2.0, 3.0], [4.0, 6.0], [-80.0, 7.0]])
    assert iqm(scores) == pytest.approx((2 + 3 + 4 + 6) / 4)
    assert iqm(np.array([[1.0], [2.0], [6.0]])) == pytest.approx(3.0)  # too few to cut


@given(hnp.arrays(np.float64, SHAPES, elements=FINITE))
def test_the_iqm_is_scipys_trimmed_mean(scores):
    expected = stats.trim_mean(scores, 0.25, axis=None)
    np.testing.assert_allclose(iqm(scores), expected, rtol=1e-12, atol=1e-6)


def test_the_median_is_of_the_tasks_means():
    scores = np.array([[0.0, 10.0, 7.0], [0.0, 20.0, 0.0], [90.0, 30.0, -1.0]])
    assert median(scores) == 20.0  # of 30, 20 and 2; of all nine values it is 7
    assert median(scores[:, :2]) == 25.0
    assert median(scores[:, :1]) == 30.0


def test_the_mean_by_hand():
    assert mean(np.array([[1.0, 2.0], [3.0, 10.0], [5.0, 3.0]])) == 4.0


def test_the_optimality_gap_by_hand():
    scores = np.array([[0.5, 7.0], [1.0, -1.0]])
    assert optimality_gap(scores) == (0.5 + 0.0 + 0.0 + 2.0) / 4
    assert optimality_gap(scores, threshold=8.0) == 8.0 - mean(scores)
    assert optimality_gap(scores, threshold=-1.0) == 0.0


def test_the_profile_by_hand():
    scores = np.array([[0.0, 1.0], [0.5, 1.0], [1.0, 2.0]])
    thresholds = np.array([1.0, -0.1, 0.0, 0.5, 2.0])  # in any order; a score is not above itself
    expected = np.array([1, 6, 5, 4, 0]) / 6
    np.testing.assert_allclose(performance_profile(scores, thresholds), expected, rtol=1e-15)


@given(hnp.arrays(np.float64, SHAPES, elements=st.integers(0, 50)))
def test_the_area_under_the_profile_is_the_mean(scores):
    # Whole scores: the profile is constant from one whole threshold to the next.
    profile = performance_profile(scores, np.arange(50.0))
    np.testing.assert_allclose(profile.sum(), mean(scores), rtol=1e-12)


def test_scores_are_normalised_task_by_task():
    scores = np.array([[[10.0, -3.0], [20.0, 5.0]]])
    normal = normalise(scores, np.array([10.0, 1.0]), np.array([30.0, 5.0]))
    np.testing.assert_array_equal(normal, [[[0.0, -1.0], [0.5, 1.0]]])
    np.testing.assert_array_equal(normalise(scores, 0.0, 10), scores / 10.0)
    assert np.isnan(normalise(np.array([[np.nan, 1.0]]), 0.0, 1.0)).tolist() == [[True, False]]


# What all of them have in common -----------------------------------------------------------------


@EVERY
def test_statistics_are_batched_over_leading_axes(statistic):
    scores = normal(5, 2, 7, 3)
    looped = [[statistic(scores[i, j]) for j in range(2)] for i in range(5)]
    np.testing.assert_allclose(statistic(scores), looped, rtol=1e-14)
    assert statistic(scores).shape[:2] == (5, 2)


@EVERY
@given(scores=WHOLE, seed=st.integers(0, 99))
def test_the_order_of_runs_and_of_tasks_does_not_matter(statistic, scores, seed):
    generator = np.random.default_rng(seed)
    shuffled = generator.permuted(scores, axis=0)[:, generator.permutation(scores.shape[1])]
    np.testing.assert_allclose(statistic(shuffled), statistic(scores), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("statistic", AVERAGES)
@given(scores=WHOLE, scale=st.integers(1, 9), shift=st.integers(-9, 9))
def test_averages_have_the_scores_unit(statistic, scores, scale, shift):
    moved = statistic(scale * scores + shift)
    np.testing.assert_allclose(moved, scale * statistic(scores) + shift, rtol=1e-12, atol=1e-9)
    assert scores.min() - 1e-9 <= statistic(scores) <= scores.max() + 1e-9


@given(scores=WHOLE, scale=st.integers(1, 9), shift=st.integers(-9, 9))
def test_thresholds_have_the_scores_unit(scores, scale, shift):
    moved, threshold = scale * scores + shift, scale * 3.0 + shift
    np.testing.assert_allclose(
        optimality_gap(moved, threshold), scale * optimality_gap(scores, 3.0), atol=1e-9
    )
    thresholds = np.arange(-5.0, 5.0)
    profile = performance_profile(scores, thresholds)
    np.testing.assert_array_equal(
        performance_profile(moved, scale * thresholds + shift), profile, strict=True
    )
    assert np.all(np.diff(profile) <= 0.0)


@EVERY
@pytest.mark.parametrize("run", [0, 7])
def test_a_score_that_is_not_a_number_is_never_left_out(statistic, run):
    scores = np.arange(32.0).reshape(2, 8, 2)
    scores[1, run, 0] = np.nan
    found = np.isnan(statistic(scores))
    assert not found[0].any() and found[1].all()


@EVERY
def test_whole_and_single_precision_scores_are_summed_in_double_precision(statistic):
    scores = 16_777_216 + np.arange(8).reshape(4, 2)  # single precision has no odd ones up there
    np.testing.assert_array_equal(statistic(scores), statistic(scores.astype(np.float64)))
    single = normal(6, 2).astype(np.float32)
    np.testing.assert_array_equal(statistic(single), statistic(single.astype(np.float64)))
    assert statistic(single).dtype == np.float64


# Refusals ----------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 1)])
def test_there_is_no_statistic_of_nothing(statistic, shape):
    with pytest.raises(DimeError, match="no runs or no tasks in scores of shape"):
        statistic(np.zeros(shape))


def test_scores_without_a_task_axis_are_refused():
    unchecked = inspect.unwrap(mean)  # without the shapes that are checked in tests only
    with pytest.raises(DimeError, match=r"of shape \(4,\).*pass scores\[:, None\]"):
        unchecked(np.zeros(4))


@pytest.mark.parametrize("thresholds", [np.array([]), np.array([0.0, np.nan])])
def test_thresholds_that_are_none_are_refused(thresholds):
    with pytest.raises(DimeError, match="thresholds are"):
        performance_profile(np.zeros((2, 2)), thresholds)


@pytest.mark.parametrize(
    "low, high",
    [(0.0, 0.0), (1.0, 0.0), (np.nan, 1.0), (0.0, np.inf), (0.0, np.array([1.0, -1.0]))],
)
def test_bounds_that_span_nothing_are_refused(low, high):
    with pytest.raises(DimeError, match="above its low"):
        normalise(np.zeros((3, 2)), low, high)


def test_bounds_for_other_tasks_are_refused():
    with pytest.raises(DimeError, match=r"high \(3,\).*one bound for every task"):
        inspect.unwrap(normalise)(np.zeros((3, 2)), 0.0, np.ones(3))


def test_what_is_no_array_of_numbers_is_refused():
    # In a process of its own: here the annotations are checked, and refuse it first.
    code = (
        "from dime.errors import DimeError\n"
        "from dime.statistics import iqm\n"
        "for scores in ([['best']], [[1.0, 2.0], [3.0]], {}):\n"
        "    try:\n"
        "        iqm(scores)\n"
        "    except DimeError as error:\n"
        "        print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.count("array of numbers") == 3
