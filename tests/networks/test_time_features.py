"""Features of the time against their formulae in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.networks.initializers import uniform_fan_in
from dime.networks.time_features import (
    LearntFourierFeatures,
    SinusoidalFeatures,
    sinusoidal_frequencies,
)

STEPS = np.arange(20)


def key(number=0):
    return jax.random.key(number)


def mish(x):
    return x * np.tanh(np.log1p(np.exp(x)))


def mlp(layers, x):
    """Dense, Mish, Dense."""
    first, second = layers.layers
    hidden = mish(x @ np.asarray(first.kernel) + np.asarray(first.bias))
    return hidden @ np.asarray(second.kernel) + np.asarray(second.bias)


@pytest.mark.parametrize("half", [8, 16])
def test_frequencies_fall_from_one_to_a_ten_thousandth(half):
    frequencies = np.array(sinusoidal_frequencies(half, half - 1))
    assert len(frequencies) == half
    np.testing.assert_allclose(frequencies[[0, -1]], [1.0, 1e-4])
    np.testing.assert_allclose(np.diff(np.log(frequencies)), -np.log(1e4) / (half - 1))


def test_frequencies_of_the_other_kind_stop_before_that():
    np.testing.assert_allclose(sinusoidal_frequencies(8, 8)[-1], 1e4 ** (-7 / 8))


@pytest.mark.parametrize("scale, sizes", [(1.0, (32, 16)), (0.25, (12, 5))])
def test_sinusoidal_features(scale, sizes):
    frequencies = sinusoidal_frequencies(4, 3)
    features = SinusoidalFeatures(frequencies, sizes, key(), uniform_fan_in, scale)
    angles = STEPS[:, None] * np.array(frequencies)
    waves = scale * np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    expected = mlp(features.mlp, waves)
    assert expected.shape == (20, sizes[1])
    np.testing.assert_allclose(features(jnp.arange(20)), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features(jnp.asarray(7)), expected[7], rtol=1e-4, atol=1e-5)


def test_real_times_are_features_too():
    features = SinusoidalFeatures((1.0, 0.01), (8, 3), key())
    time = np.array([0.002, 2.0, 60.5, 80.0])
    angles = time[:, None] * np.array([1.0, 0.01])
    expected = mlp(features.mlp, np.concatenate([np.sin(angles), np.cos(angles)], axis=-1))
    np.testing.assert_allclose(features(jnp.asarray(time)), expected, rtol=1e-3, atol=1e-5)


def test_learnt_fourier_features():
    features = LearntFourierFeatures(6, (8, 5), key(), uniform_fan_in)
    angles = 2.0 * np.pi * STEPS[:, None] * np.asarray(features.frequencies, np.float64)
    assert angles.shape == (20, 3)
    expected = mlp(features.mlp, np.concatenate([np.cos(angles), np.sin(angles)], axis=-1))
    np.testing.assert_allclose(features(jnp.arange(20)), expected, rtol=1e-3, atol=1e-4)


def test_learnt_frequencies_have_a_fifth_for_their_width_and_are_learnt():
    frequencies = LearntFourierFeatures(4_000, (2, 2), key()).frequencies
    assert float(frequencies.std()) == pytest.approx(0.2, rel=0.05)
    assert float(frequencies.mean()) == pytest.approx(0.0, abs=0.02)
    small = LearntFourierFeatures(6, (8, 5), key(1))
    gradient = jax.grad(lambda f: f(jnp.arange(4)).sum())(small)
    assert jnp.abs(gradient.frequencies).min() > 0.0
