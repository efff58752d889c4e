import inspect

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import integrate

from dime.errors import DimeError
from dime.statistics import area_under_curve, iqm, steps_to_score

STEPS = np.array([0, 100, 400, 500])


@st.composite
def curves(draw):
    num = draw(st.integers(2, 8))
    env_steps = np.cumsum(draw(hnp.arrays(np.int64, num, elements=st.integers(1, 1000))))
    return env_steps, draw(hnp.arrays(np.float64, num, elements=st.integers(-50, 50)))


# Area --------------------------------------------------------------------------------------------


def test_the_area_by_hand():
    curve = np.array([0.0, 2.0, 4.0, 0.0])
    assert area_under_curve(STEPS, curve) == pytest.approx((100 + 900 + 200) / 500)
    assert area_under_curve(STEPS + 1000, curve) == pytest.approx(1200 / 500)


@given(curves())
def test_the_area_is_scipys(drawn):
    env_steps, curve = drawn
    expected = integrate.trapezoid(curve, env_steps) / (env_steps[-1] - env_steps[0])
    np.testing.assert_allclose(area_under_curve(env_steps, curve), expected, rtol=1e-12, atol=1e-12)


@given(curves(), st.integers(1, 9), st.integers(-9, 9))
def test_the_area_has_the_scores_unit_and_none_of_the_steps(drawn, scale, shift):
    env_steps, curve = drawn
    area = area_under_curve(env_steps, curve)
    assert curve.min() - 1e-9 <= area <= curve.max() + 1e-9
    moved = area_under_curve(env_steps, scale * curve + shift)
    np.testing.assert_allclose(moved, scale * area + shift, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(area_under_curve(scale * env_steps + shift, curve), area, atol=1e-9)


def test_a_point_on_the_line_adds_no_area():
    more = np.array([0, 50, 100, 400, 500])
    split = area_under_curve(more, np.array([0.0, 1.0, 2.0, 4.0, 0.0]))
    assert split == pytest.approx(float(area_under_curve(STEPS, np.array([0.0, 2.0, 4.0, 0.0]))))


def test_curves_of_runs_and_tasks():
    curves = np.random.default_rng(0).normal(size=(5, 3, 4))
    areas = area_under_curve(STEPS, curves)
    looped = [[area_under_curve(STEPS, curve) for curve in row] for row in curves]
    np.testing.assert_allclose(areas, looped, rtol=1e-12)
    aggregate = iqm(np.moveaxis(curves, -1, 0))  # statistics have time in front
    assert aggregate.shape == (4,) and area_under_curve(STEPS, aggregate).shape == ()


# Steps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "curve, expected",
    [
        ([0.0, 1.0, 4.0, 9.0], 200.0),  # a third of the way from 1 to 4
        ([0.0, 2.0, 4.0, 9.0], 100.0),  # exactly at a point
        ([2.0, 3.0, 4.0, 5.0], 0.0),  # from the start, exactly
        ([7.0, 0.0, 0.0, 5.0], 0.0),  # from the start, and not for long
        ([0.0, 4.0, 0.0, 5.0], 50.0),  # the first of two crossings
        ([0.0, 1.0, 1.5, 1.9], np.nan),  # never
        ([0.0, 2.0, np.nan, 9.0], np.nan),  # a NaN after it
        ([np.nan, 1.0, 2.0, 9.0], np.nan),  # a NaN before it
        ([0.0, 0.0, 0.0, 2.0], 500.0),  # at the end
    ],
)
def test_the_steps_by_hand(curve, expected):
    np.testing.assert_allclose(steps_to_score(STEPS, np.array(curve), 2.0), expected, rtol=1e-15)


def test_the_steps_of_a_single_evaluation():
    assert steps_to_score(np.array([300]), np.array([1.0]), 1.0) == 300.0
    assert np.isnan(steps_to_score(np.array([300]), np.array([1.0]), 1.5))


@given(curves(), st.integers(-50, 50))
def test_the_curve_is_at_the_score_then_and_below_before(drawn, score):
    env_steps, curve = drawn
    steps = steps_to_score(env_steps, curve, score)
    assert np.isnan(steps) == (curve.max() < score)
    assume(not np.isnan(steps))
    at = np.interp(steps, env_steps, curve)
    assert at == pytest.approx(max(score, curve[0]), abs=1e-6)
    assert np.all(curve[env_steps < steps - 1e-6] < score)


def test_the_steps_are_batched_over_leading_axes():
    curves = np.random.default_rng(0).normal(size=(6, 3, 4))
    looped = [[steps_to_score(STEPS, curve, 0.5) for curve in row] for row in curves]
    steps = steps_to_score(STEPS, curves, 0.5)
    np.testing.assert_array_equal(steps, looped)
    assert 0 < np.isnan(steps).sum() < steps.size


# Both --------------------------------------------------------------------------------------------


def test_a_score_that_is_not_a_number_is_not_left_out_of_the_area():
    curves = np.array([[0.0, 1.0, 2.0, 3.0], [0.0, np.nan, 2.0, 3.0]])
    assert np.isnan(area_under_curve(STEPS, curves)).tolist() == [False, True]


@pytest.mark.parametrize("env_steps", [[0, 100, 100, 200], [0, 200, 100, 300], [0, 1, 2, np.nan]])
def test_env_steps_that_do_not_ascend_are_refused(env_steps):
    with pytest.raises(DimeError, match="must ascend"):
        area_under_curve(np.array(env_steps), np.zeros(4))
    with pytest.raises(DimeError, match="must ascend"):
        steps_to_score(np.array(env_steps), np.zeros(4), 1.0)


def test_one_evaluation_has_no_area():
    with pytest.raises(DimeError, match="at least 2"):
        area_under_curve(np.array([0]), np.zeros(1))
    with pytest.raises(DimeError, match="at least 1"):
        steps_to_score(np.zeros(0), np.zeros(0), 1.0)


@pytest.mark.parametrize("shape", [(4, 2), (3,), ()])
def test_curves_with_time_elsewhere_are_refused(shape):
    # without the shapes that are checked in tests only
    with pytest.raises(DimeError, match="the last axis must be time"):
        inspect.unwrap(area_under_curve)(STEPS, np.zeros(shape))
    with pytest.raises(DimeError, match="the last axis must be time"):
        inspect.unwrap(steps_to_score)(STEPS, np.zeros(shape), 1.0)
