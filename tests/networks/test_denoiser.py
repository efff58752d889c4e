"""The denoiser: what it is told, in which order; the faster form that a chain uses is the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.networks.denoiser import Denoiser
from dime.networks.initializers import uniform_fan_in
from dime.networks.time_features import LearntFourierFeatures, SinusoidalFeatures
from dime.types import EnvSpec

SPEC = EnvSpec(obs_dim=3, action_dim=2)


def key():
    return jax.random.key(0)


def normal(number, *shape):
    return jnp.asarray(np.random.default_rng(number).normal(size=shape), jnp.float32)


FEATURES = {
    "sinusoidal": lambda k: SinusoidalFeatures((1.0, 0.1), (6, 4), k, uniform_fan_in),
    "learnt": lambda k: LearntFourierFeatures(6, (6, 4), k, uniform_fan_in),
}


@functools.cache
def denoiser(features="sinusoidal"):
    return jax.jit(lambda k: Denoiser(SPEC, (8, 7), FEATURES[features], k, uniform_fan_in))(key())


def test_is_a_perceptron_of_noisy_action_observation_and_time():
    made = denoiser()
    noisy, obs, time = normal(1, 5, 2), normal(2, 5, 3), jnp.arange(5)
    x = np.concatenate([noisy, obs, made.features(time)], axis=-1)
    for layer in made.mlp.layers[:-1]:
        x = x @ np.asarray(layer.kernel) + np.asarray(layer.bias)
        x = x * np.tanh(np.log1p(np.exp(x)))  # Mish
    expected = x @ np.asarray(made.mlp.layers[-1].kernel) + np.asarray(made.mlp.layers[-1].bias)
    np.testing.assert_allclose(made(noisy, obs, time), expected, rtol=1e-4, atol=1e-5)
    alone = made(noisy[3], obs[3], time[3])
    np.testing.assert_allclose(alone, expected[3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("draws", [(), (6,)], ids=["one draw", "several draws"])
def test_bound_it_is_itself_at_every_step(features, draws):
    made, obs = denoiser(features), normal(3, 4, 3)
    predict = made.bind(obs, jnp.arange(5))
    noisy = normal(4, *draws, 4, 2)
    rows = jnp.broadcast_to(obs, (*draws, 4, 3))
    for index in range(5):
        output = predict(noisy, jnp.asarray(index))
        expected = made(noisy, rows, jnp.full((*draws, 4), index))
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


def test_bound_to_real_times_and_to_one_observation():
    made, obs, noisy = denoiser(), normal(5, 3), normal(6, 2)
    times = jnp.array([80.0, 41.0, 2.0])
    predict = made.bind(obs, times)
    for index, time in enumerate(times):
        expected = made(noisy, obs, time)
        np.testing.assert_allclose(predict(noisy, jnp.asarray(index)), expected, rtol=1e-4)


def test_bound_it_has_the_same_gradients():
    noisy, obs, steps = normal(7, 4, 2), normal(8, 4, 3), jnp.arange(3)

    def bound(made):
        return (made.bind(obs, steps)(noisy, jnp.asarray(2)) ** 2).sum()

    def called(made):
        return (made(noisy, obs, jnp.full(4, 2)) ** 2).sum()

    gradients = (jax.tree.leaves(jax.grad(f)(denoiser())) for f in (bound, called))
    for first, second in zip(*gradients, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-5)
