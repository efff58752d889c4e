"""The perceptron against its formula, and that it starts as it is told."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dime.networks.layers import Mlp, orthogonal_with
from tests.drawn import drawn, normal


def dense(layer, x):
    return np.asarray(x, np.float64) @ np.asarray(layer.kernel) + np.asarray(layer.bias)


def test_activates_after_every_layer_but_the_last():
    mlp = drawn(partial(Mlp, (3, 6, 5, 2), jnp.tanh))
    x = normal(1, 4, 7, 3)
    first, second, last = mlp.layers
    expected = dense(last, np.tanh(dense(second, np.tanh(dense(first, x)))))
    np.testing.assert_allclose(jax.jit(Mlp.__call__)(mlp, x), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mlp(x[2, 3]), expected[2, 3], rtol=1e-4, atol=1e-5)


def test_without_hidden_layers_it_is_affine():
    mlp = drawn(partial(Mlp, (3, 2), jnp.tanh), std=10.0)
    x = normal(2, 5, 3)
    np.testing.assert_allclose(mlp(x), dense(mlp.layers[0], x), rtol=1e-4, atol=1e-4)


def test_every_layer_starts_as_told():
    mlp = jax.jit(partial(Mlp, (4, 4, 4, 4), jnp.tanh, start=orthogonal_with(3.0)))
    kernels = [np.asarray(layer.kernel) for layer in mlp(jax.random.key(3)).layers]
    for kernel in kernels:
        np.testing.assert_allclose(kernel.T @ kernel, 9.0 * np.eye(4), atol=1e-4)
    assert np.abs(kernels[0] - kernels[1]).max() > 0.1
