"""Features of the time against their formulae in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.networks.chain_networks import (
    LearntFourierFeatures,
    SinusoidalFeatures,
    sinusoidal_frequencies,
)
from tests.drawn import drawn

STEPS = np.arange(20)
TIMES = np.array([0.002, 2.0, 60.5, 80.0])


def mish(x):
    return x * np.tanh(np.log1p(np.exp(x)))


def mlp(layers, x):
    """Dense, Mish, Dense."""
    first, second = layers.layers
    hidden = mish(x @ np.asarray(first.kernel) + np.asarray(first.bias))
    return hidden @ np.asarray(second.kernel) + np.asarray(second.bias)


def of(features, time):
    """Compiled as one."""
    return jax.jit(type(features).__call__)(features, jnp.asarray(time))


@pytest.mark.parametrize("half", [8, 16])
def test_frequencies_fall_from_one_to_a_ten_thousandth(half):
    frequencies = np.array(sinusoidal_frequencies(half, half - 1))
    assert len(frequencies) == half
    np.testing.assert_allclose(frequencies[[0, -1]], [1.0, 1e-4])
    np.testing.assert_allclose(np.diff(np.log(frequencies)), -np.log(1e4) / (half - 1))


def test_frequencies_of_the_other_kind_stop_before_that():
    np.testing.assert_allclose(sinusoidal_frequencies(8, 8)[-1], 1e4 ** (-7 / 8))


@pytest.mark.parametrize("scale, time", [(1.0, STEPS), (0.25, STEPS), (1.0, TIMES)])
def test_sinusoidal_features_of_integer_and_real_times(scale, time):
    frequencies = sinusoidal_frequencies(4, 3)
    features = drawn(lambda key: SinusoidalFeatures(frequencies, (12, 5), key, scale=scale))
    angles = time[:, None] * np.array(frequencies)
    waves = scale * np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    expected = mlp(features.mlp, waves)
    assert expected.shape == (len(time), 5)
    np.testing.assert_allclose(of(features, time), expected, rtol=1e-3, atol=1e-4)
    assert jax.eval_shape(features, jnp.zeros(())).shape == (5,)


def test_learnt_fourier_features():
    features = drawn(partial(LearntFourierFeatures, 6, (8, 5)))
    angles = 2.0 * np.pi * STEPS[:, None] * np.asarray(features.frequencies, np.float64)
    assert angles.shape == (20, 3)
    expected = mlp(features.mlp, np.concatenate([np.cos(angles), np.sin(angles)], axis=-1))
    np.testing.assert_allclose(of(features, STEPS), expected, rtol=1e-3, atol=1e-4)


def test_learnt_frequencies_start_with_a_standard_deviation_of_a_fifth():
    make = jax.jit(partial(LearntFourierFeatures, 4_000, (2, 2)))
    frequencies = np.asarray(make(jax.random.key(0)).frequencies)
    assert frequencies.std() == pytest.approx(0.2, rel=0.05)
    assert frequencies.mean() == pytest.approx(0.0, abs=0.02)


def test_learnt_frequencies_are_learnt():
    features = drawn(partial(LearntFourierFeatures, 6, (8, 5)))
    gradient = jax.jit(jax.grad(lambda f: f(jnp.arange(4)).sum()))(features)
    assert np.abs(gradient.frequencies).min() > 0.0
