"""DACER's critics: the hand-made gradients, the cuts at three, whose backup is taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.algorithms.dacer.gaussian import (
    GaussianReturn,
    GaussianTarget,
    follow_spread,
    gaussian_loss,
    gaussian_target,
)
from tests.drawn import normal, uniform

ROWS = 6
gradients = jax.jit(jax.value_and_grad(gaussian_loss))
make_target = jax.jit(gaussian_target)


def example(draw_scale):
    returns = GaussianReturn(3.0 * normal(0, 2, ROWS), 0.1 + jnp.abs(normal(1, 2, ROWS)))
    target = GaussianTarget(3.0 * normal(2, ROWS), draw_scale * normal(3, ROWS))
    return returns, target, jnp.array([0.4, 2.0])


@pytest.mark.parametrize("draw_scale", [1.0, 5.0])
def test_gradients_are_those_of_the_variance_weighted_likelihood(draw_scale):
    returns, target, spread = example(draw_scale)
    (mean, std), (towards, draw) = (map(np.asarray, pair) for pair in (returns, target))
    bound = 3.0 * np.asarray(spread)[:, None]
    drawn = mean + np.clip(draw - mean, -bound, bound)
    assert 0.3 < np.mean(np.abs(draw - mean) > bound) < 0.9
    omega = np.asarray(spread)[:, None] ** 2 + 0.1
    of_mean = -omega * (towards - mean) / (std**2 + 0.1) / ROWS
    of_std = -omega * ((mean - drawn) ** 2 - std**2) / (std**3 + 0.1) / ROWS
    loss, gradient = gradients(returns, target, spread)
    np.testing.assert_allclose(gradient.mean, of_mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradient.std, of_std, rtol=1e-4, atol=1e-5)
    # Linear in mean and std, whose factors are held fixed; so the value follows from them.
    assert float(loss) == pytest.approx((mean * of_mean + std * of_std).sum(), rel=1e-4)


def test_the_spread_itself_is_not_learnt_through_the_loss():
    """At its target, with a draw one standard deviation off, a critic is at rest."""
    std = jnp.array([[0.5], [1.5]])
    returns = GaussianReturn(jnp.array([[2.0], [2.0]]), std)
    target = GaussianTarget(jnp.array([2.0]), jnp.array([2.5]))
    _, gradient = gradients(returns, target, jnp.array([1.0, 1.0]))
    np.testing.assert_allclose(gradient.mean, 0.0, atol=1e-7)
    assert float(gradient.std[0, 0]) == pytest.approx(0.0, abs=1e-7)
    assert float(gradient.std[1, 0]) > 0.1  # too wide: descending makes it narrower


def test_outputs_are_a_mean_and_the_softplus_of_a_number():
    returns = GaussianReturn.of(jnp.array([[1.0, 0.0], [-2.0, 3.0]]))
    np.testing.assert_array_equal(returns.mean, [1.0, -2.0])
    np.testing.assert_allclose(returns.std, np.log1p(np.exp([0.0, 3.0])), rtol=1e-6)


def test_the_smaller_mean_is_backed_up_with_its_own_draw():
    mean = jnp.array([[1.0, 5.0, -3.0], [2.0, 4.0, -7.0]])
    std = jnp.array([[1e-3, 10.0, 10.0], [10.0, 1e-3, 1e-3]])
    reward, discount = jnp.array([0.5, -1.0, 2.0]), jnp.array([0.9, 0.5, 0.0])
    key = jax.random.key(0)
    target = make_target(GaussianReturn(mean, std), reward, discount, key)
    expected = [0.5 + 0.9 * 1.0, -1.0 + 0.5 * 4.0, 2.0]
    np.testing.assert_allclose(target.mean, expected, rtol=1e-6)
    np.testing.assert_allclose(target.draw, expected, atol=5e-3)  # the wide one's would be far off


def test_draws_are_gaussian_and_cut_at_three():
    rows = 100_000
    following = GaussianReturn(jnp.full((2, rows), 4.0), jnp.full((2, rows), 2.0))
    target = make_target(following, jnp.ones(rows), jnp.full(rows, 0.5), jax.random.key(1))
    standard = (np.asarray(target.draw) - 1.0 - 0.5 * 4.0) / (0.5 * 2.0)
    assert np.abs(standard).max() == pytest.approx(3.0, abs=1e-4)
    assert np.mean(np.abs(standard) > 2.999) == pytest.approx(0.0027, rel=0.2)
    assert (standard.mean(), standard.std()) == pytest.approx((0.0, 0.997), abs=0.01)


def test_the_spread_starts_at_the_first_mean_and_then_follows_slowly():
    std = jnp.abs(uniform(4, 2, 10))
    first = follow_spread(jnp.zeros(2), std)
    np.testing.assert_allclose(first, np.mean(std, axis=-1), rtol=1e-6)
    second = follow_spread(first, 3.0 * std)
    np.testing.assert_allclose(second, (0.995 + 0.005 * 3.0) * first, rtol=1e-5)


def test_cuts_are_at_three_spreads_on_either_side():
    returns = GaussianReturn(jnp.zeros((1, 2)), jnp.ones((1, 2)))
    far = GaussianTarget(jnp.zeros(2), jnp.array([1e3, -1e3]))
    _, gradient = gradients(returns, far, jnp.array([2.0]))
    expected = -(2.0**2 + 0.1) * (6.0**2 - 1.0) / (1.0 + 0.1) / 2
    np.testing.assert_allclose(gradient.std, [[expected, expected]], rtol=1e-5)
