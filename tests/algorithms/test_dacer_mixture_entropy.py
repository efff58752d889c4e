"""The entropy of a fitted mixture: where it is exact, and that nothing makes it infinite."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.algorithms.dacer.mixture_entropy import (
    Mixture,
    fit_mixture,
    mean_mixture_entropy,
    mixture_entropy,
)
from tests.drawn import normal

FLOOR = 0.5 * np.log(2.0 * np.pi * np.e * 1e-6)  # nats per dimension


@partial(jax.jit, static_argnums=1)
def fit(points, num_components, seed=0):
    mixture = fit_mixture(points, num_components, jax.random.key(seed))
    return mixture, mixture_entropy(mixture)


def gaussian_entropy(points):
    """Of the Gaussian with the points' own covariance, in nats."""
    covariance = np.atleast_2d(np.cov(np.asarray(points, np.float64).T, bias=True))
    dim = len(covariance)
    return 0.5 * (dim * np.log(2.0 * np.pi * np.e) + np.linalg.slogdet(covariance)[1])


def test_entropy_of_a_mixture_in_closed_form():
    covariances = jnp.stack([jnp.diag(jnp.array([1.0, 4.0])), 0.01 * jnp.eye(2)])
    mixture = Mixture(jnp.array([0.25, 0.75]), jnp.zeros((2, 2)), covariances)
    of_weights = -0.25 * np.log(0.25) - 0.75 * np.log(0.75)
    of_components = np.log(2.0 * np.pi * np.e) + 0.25 * np.log(2.0) + 0.75 * np.log(0.01)
    assert float(mixture_entropy(mixture)) == pytest.approx(of_weights + of_components, rel=1e-5)
    alone = mixture._replace(weights=jnp.array([1.0, 0.0]))  # 0 log 0 is 0
    expected = np.log(2.0 * np.pi * np.e) + np.log(2.0)
    assert float(mixture_entropy(alone)) == pytest.approx(expected, rel=1e-5)


def test_one_component_is_the_gaussian_of_the_sample_covariance():
    mix = np.array([[0.5, 0.2, 0.0], [0.0, 0.3, -0.1], [0.0, 0.0, 0.4]])
    points = normal(0, 200, 3) @ mix + jnp.array([3.0, -1.0, 0.5])
    mixture, entropy = fit(points, 1)
    np.testing.assert_allclose(mixture.means[0], np.mean(points, axis=0), atol=1e-4)
    covariance = np.cov(np.asarray(points).T, bias=True)
    np.testing.assert_allclose(mixture.covariances[0], covariance, atol=1e-4)
    assert float(entropy) == pytest.approx(gaussian_entropy(points), abs=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_separate_gaussians_are_found_whatever_the_key(seed):
    """Their entropies' mean plus that of their shares."""
    counts, stds = (300, 180, 120), ((0.2, 0.1), (0.05, 0.3), (0.1, 0.1))
    centres = ((-2.0, 0.0), (2.0, 1.0), (1.0, -3.0))
    parts = [
        jnp.array(centre) + jnp.array(std) * normal(number, count, 2)
        for number, (centre, std, count) in enumerate(zip(centres, stds, counts, strict=True))
    ]
    mixture, entropy = fit(jnp.concatenate(parts), 3, seed)
    shares = np.array(counts) / sum(counts)
    np.testing.assert_allclose(np.sort(mixture.weights), np.sort(shares), atol=1e-3)
    of_components = sum(
        share * gaussian_entropy(part) for share, part in zip(shares, parts, strict=True)
    )
    expected = of_components - (shares * np.log(shares)).sum()
    assert float(entropy) == pytest.approx(expected, abs=5e-3)


def test_em_goes_on_from_the_clustering():
    """Overlapping Gaussians of unlike widths: k-means cuts in the middle, EM does not."""
    wide, narrow = 1.5 * normal(1, 1_000, 1), 0.1 * normal(2, 1_000, 1)
    mixture, _ = fit(jnp.concatenate([wide, narrow]), 2)
    np.testing.assert_allclose(np.sort(mixture.weights), [0.5, 0.5], atol=0.05)
    stds = np.sort(np.sqrt(mixture.covariances[:, 0, 0]))
    np.testing.assert_allclose(stds, [0.1, 1.5], rtol=0.1)


@pytest.mark.parametrize("value", [0.0, 0.7, -1.0])
@pytest.mark.parametrize("dim", [2, 6])
def test_points_that_are_all_the_same_are_at_the_floor(value, dim):
    _, entropy = fit(jnp.full((50, dim), value), 3)
    assert float(entropy) == pytest.approx(FLOOR * dim, abs=0.01)


def test_points_in_a_corner_of_the_box_stay_finite():
    dim = 21
    points = np.array(np.clip(3.5 + normal(3, 200, dim), -1.0, 1.0))
    points[:5] = -1.0  # a cluster of fewer points than dimensions
    _, entropy = fit(jnp.asarray(points), 3)
    assert np.isfinite(entropy)
    assert float(entropy) > FLOOR * dim - 0.1


def test_the_mean_is_over_the_sets_of_points():
    widths = jnp.array([0.1, 1.0, 3.0])
    points = widths[:, None] * normal(4, 100, 3, 2)
    mean = jax.jit(lambda p, key: mean_mixture_entropy(p, 1, key))(points, jax.random.key(0))
    each = [gaussian_entropy(points[:, place]) for place in range(3)]
    assert float(mean) == pytest.approx(np.mean(each), abs=1e-3)
    assert each[2] - each[0] > 5.0
