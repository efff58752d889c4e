import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from dime.errors import DimeError
from dime.statistics import (
    bootstrap_interval,
    improvement_interval,
    mean,
    probability_of_improvement,
)

FEW = st.integers(-3, 3).map(float)  # with many ties


@st.composite
def pairs(draw):
    tasks = draw(st.integers(1, 3))
    return [
        draw(hnp.arrays(np.float64, (draw(st.integers(1, 8)), tasks), elements=FEW)) for _ in "xy"
    ]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_the_probability_by_hand():
    x = np.array([[1.0, 5.0], [3.0, 6.0]])
    y = np.array([[1.0, 9.0], [2.0, 6.0], [4.0, 0.0]])
    # first task: 1 beats none and ties once, 3 beats two; second: 5 beats one, 6 one with one tie
    expected = ((0.5 + 2) / 6 + (1 + 1.5) / 6) / 2
    assert probability_of_improvement(x, y) == pytest.approx(expected, rel=1e-15)


@given(pairs())
def test_the_probability_is_scipys_u_statistic(pair):
    x, y = pair
    u = stats.mannwhitneyu(x, y, axis=0, method="asymptotic").statistic
    expected = np.mean(u / (len(x) * len(y)))
    np.testing.assert_allclose(probability_of_improvement(x, y), expected, rtol=1e-12)


@given(pairs(), st.integers(0, 99))
def test_what_the_probability_depends_on(pair, seed):
    x, y = pair
    probability = probability_of_improvement(x, y)
    assert probability_of_improvement(y, x) == pytest.approx(1.0 - probability)
    shuffled = np.random.default_rng(seed).permuted(x, axis=0)
    assert probability_of_improvement(shuffled, y) == pytest.approx(probability)
    assert probability_of_improvement(np.exp(x), np.exp(y)) == pytest.approx(probability)
    assert probability_of_improvement(x, x) == pytest.approx(0.5)
    assert probability_of_improvement(x + 7.0, y) == 1.0


def test_the_probability_of_two_normal_laws():
    x, y = normal(3000, 1) + 1.0, normal(2000, 1, seed=1)
    expected = stats.norm.cdf(1.0 / np.sqrt(2.0))
    assert probability_of_improvement(x, y) == pytest.approx(expected, abs=0.02)


def test_the_probability_is_batched_over_leading_axes():
    x, y = normal(4, 5, 2), normal(4, 3, 2, seed=1)
    looped = [probability_of_improvement(*pair) for pair in zip(x, y, strict=True)]
    np.testing.assert_allclose(probability_of_improvement(x, y), looped, rtol=1e-14)
    low, high = improvement_interval(x, y, num_resamples=200)
    looped = [improvement_interval(*pair, num_resamples=200) for pair in zip(x, y, strict=True)]
    np.testing.assert_allclose(np.stack([low, high], axis=1), looped, rtol=1e-14)


def test_what_fits_into_memory_at_once_does_not_matter(monkeypatch):
    pair = normal(3, 5, 2), normal(3, 4, 2, seed=1)
    ends = improvement_interval(*pair, num_resamples=100)
    monkeypatch.setattr("dime.statistics._NUMBERS_AT_ONCE", 777)
    np.testing.assert_array_equal(improvement_interval(*pair, num_resamples=100), ends)


@pytest.mark.parametrize("place", [0, 1])
def test_a_score_that_is_not_a_number_loses_to_none(place):
    pair = [normal(2, 4, 2), normal(2, 3, 2, seed=1)]
    pair[place][1, 0, 0] = np.nan
    assert np.isnan(probability_of_improvement(*pair)).tolist() == [False, True]
    low, high = improvement_interval(*pair, num_resamples=50)
    assert np.isnan(low).tolist() == np.isnan(high).tolist() == [False, True]


# The interval ------------------------------------------------------------------------------------


def test_the_interval_of_the_smallest_sample_is_known():
    # X draws 2 never, once or twice with probabilities 1/4, 1/2, 1/4: so often it beats 1.
    x, y = np.array([[0.0], [2.0]]), np.array([[1.0]])
    assert improvement_interval(x, y, confidence=0.4) == (0.5, 0.5)
    assert improvement_interval(x, y, confidence=0.6) == (0.0, 1.0)
    assert improvement_interval(y, x, confidence=0.6) == (0.0, 1.0)  # Y is drawn as well


def test_runs_are_drawn_within_each_task():
    # X wins the first task always and the second never; nothing varies within a task.
    x, y = np.tile([1.0, 0.0], (5, 1)), np.tile([0.0, 1.0], (4, 1))
    assert improvement_interval(x, y) == (0.5, 0.5)


def test_tasks_are_drawn_independently_of_each_other():
    # Whoever wins one task loses the other: were whole rows drawn, nothing would vary.
    x = np.array([[1.0, -1.0], [-1.0, 1.0]] * 4)
    low, high = improvement_interval(x, np.zeros((3, 2)))
    assert low < 0.35 and high > 0.65


def test_x_and_y_are_drawn_independently_of_each_other():
    # With the same draws for both, ten runs against themselves would always be at one half.
    x = np.arange(10.0)[:, None]
    low, high = improvement_interval(x, x)
    assert low < 0.35 and high > 0.65


def test_the_interval_against_a_constant_is_that_of_a_share():
    x = normal(40, 2)
    low, high = improvement_interval(x, np.zeros((1, 2)), num_resamples=20_000)
    expected = bootstrap_interval(1.0 * (x > 0.0), mean, num_resamples=20_000, seed=1)
    np.testing.assert_allclose([low, high], expected, atol=1.5 / x.size)


def test_the_interval_is_scipys():
    x, y = normal(12, 1) + 0.5, normal(9, 1, seed=1)

    def statistic(a, b, axis):
        return (a[..., :, None] > b[..., None, :]).mean(axis=(-2, -1))

    scipys = stats.bootstrap(
        (x[:, 0], y[:, 0]), statistic, n_resamples=20_000, method="percentile", rng=0
    ).confidence_interval
    low, high = improvement_interval(x, y, num_resamples=20_000)
    # Monte-Carlo error of a 2.5 % quantile: 0.019 standard deviations, each
    np.testing.assert_allclose([low, high], scipys, atol=0.03 * (high - low))


@settings(max_examples=20)
@given(pairs(), st.integers(0, 99))
def test_the_interval_lies_within_what_is_possible(pair, seed):
    low, high = improvement_interval(*pair, num_resamples=50, seed=seed)
    assert 0.0 <= low <= high <= 1.0
    flipped = improvement_interval(*pair, num_resamples=50, seed=seed, confidence=0.5)
    assert low <= flipped[0] <= flipped[1] <= high


def test_the_interval_is_seeded():
    pair = normal(10, 2), normal(10, 2, seed=1)
    assert improvement_interval(*pair) == improvement_interval(*pair, seed=0)
    assert improvement_interval(*pair) != improvement_interval(*pair, seed=1)


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "x, y", [((5, 2), (5, 3)), ((4, 5, 2), (3, 5, 2)), ((4, 5, 2), (5, 2)), ((5, 1), (5, 2))]
)
@pytest.mark.parametrize("function", [probability_of_improvement, improvement_interval])
def test_shapes_that_do_not_match_are_refused(function, x, y):
    unchecked = inspect.unwrap(function)  # without the shapes that are checked in tests only
    with pytest.raises(DimeError, match="the same tasks in the same order"):
        unchecked(np.zeros(x), np.zeros(y))


@pytest.mark.parametrize("function", [probability_of_improvement, improvement_interval])
def test_there_is_no_probability_without_runs(function):
    with pytest.raises(DimeError, match="no runs"):
        function(np.zeros((3, 2)), np.zeros((0, 2)))


@pytest.mark.parametrize(
    "options", [{"confidence": 1.0}, {"confidence": 0.0}, {"num_resamples": 0}, {"seed": -1}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(DimeError, match=next(iter(options))):
        improvement_interval(normal(3, 1), normal(3, 1), **options)
