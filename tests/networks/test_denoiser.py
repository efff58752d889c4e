"""The denoiser: what it is told, in which order; the faster form that a chain uses is the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.networks.chain_networks import Denoiser, LearntFourierFeatures, SinusoidalFeatures
from dime.networks.layers import orthogonal_with
from dime.types import EnvSpec
from tests.drawn import drawn, normal

SPEC = EnvSpec(obs_dim=3, action_dim=2)
FEATURES = {
    "sinusoidal": lambda key: SinusoidalFeatures((1.0, 0.1), (6, 4), key),
    "learnt": lambda key: LearntFourierFeatures(6, (6, 4), key),
}


def denoiser(features="sinusoidal"):
    return drawn(lambda key: Denoiser(SPEC, (8, 7), FEATURES[features], key))


def test_is_a_perceptron_of_noisy_action_observation_and_time():
    made = denoiser()
    noisy, obs, time = normal(1, 5, 2), normal(2, 5, 3), jnp.arange(5)
    x = np.concatenate([noisy, obs, jax.jit(made.features.__call__)(time)], axis=-1)
    for layer in made.mlp.layers[:-1]:
        x = x @ np.asarray(layer.kernel) + np.asarray(layer.bias)
        x = x * np.tanh(np.log1p(np.exp(x)))  # Mish
    expected = x @ np.asarray(made.mlp.layers[-1].kernel) + np.asarray(made.mlp.layers[-1].bias)
    output = jax.jit(Denoiser.__call__)(made, noisy, obs, time)
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


@jax.jit
def at_one_time(made, noisy, obs, times, at):
    """Both forms' outputs, and their gradients in the parameters; `at` is a time's index."""

    def bound(made):
        output = made.bind(obs, times)(noisy, at)
        return (output**2).sum(), output

    def called(made):
        rows = jnp.broadcast_to(obs, (*noisy.shape[:-1], 3))
        output = made(noisy, rows, jnp.broadcast_to(times[at], noisy.shape[:-1]))
        return (output**2).sum(), output

    return [jax.grad(form, has_aux=True)(made) for form in (bound, called)]


@pytest.mark.parametrize("features, draws, times", [
    ("sinusoidal", (4,), np.arange(3)),
    ("learnt", (6, 4), np.arange(3)),
    ("sinusoidal", (6, 4), np.array([80.0, 41.0, 2.0], np.float32)),
], ids=["one draw", "several draws", "real times"])  # fmt: skip
def test_bound_it_is_itself_at_every_time(features, draws, times):
    made, noisy, obs = denoiser(features), normal(4, *draws, 2), normal(3, 4, 3)
    for index in range(3):
        bound, called = at_one_time(made, noisy, obs, jnp.asarray(times), jnp.int32(index))
        for first, second in zip(*map(jax.tree.leaves, (bound, called)), strict=True):
            np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-4)


def test_it_is_bound_to_one_observation_too():
    made, noisy, obs = denoiser(), normal(6, 2), normal(5, 3)
    (_, bound), (_, called) = at_one_time(made, noisy, obs, jnp.arange(3), jnp.int32(1))
    np.testing.assert_allclose(bound, called, rtol=1e-4, atol=1e-5)


def test_every_layer_starts_as_told():
    def features(key):
        return SinusoidalFeatures((1.0,), (2, 2), key, orthogonal_with(3.0))

    def make(key):
        return Denoiser(SPEC, (7, 7), features, key, orthogonal_with(3.0))

    made = jax.jit(make)(jax.random.key(0))
    layers = [*made.mlp.layers, *made.features.mlp.layers]
    for layer in layers:
        singular = np.linalg.svd(layer.kernel, compute_uv=False)
        np.testing.assert_allclose(singular, 3.0, rtol=1e-5)
    assert [layer.kernel.shape for layer in layers] == [(7, 7), (7, 7), (7, 2), (2, 2), (2, 2)]
