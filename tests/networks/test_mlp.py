"""The perceptron against its formula, and that it starts as it is told."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from dime.networks.initializers import orthogonal_with, uniform_fan_in
from dime.networks.mlp import Mlp


def test_activates_after_every_layer_but_the_last():
    mlp = Mlp((3, 6, 5, 2), jnp.tanh, jax.random.key(0), uniform_fan_in)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 7, 3)), jnp.float32)
    first, second, last = mlp.layers
    hidden = np.tanh(np.asarray(x) @ first.kernel + np.asarray(first.bias))
    hidden = np.tanh(hidden @ np.asarray(second.kernel) + np.asarray(second.bias))
    expected = hidden @ np.asarray(last.kernel) + np.asarray(last.bias)
    np.testing.assert_allclose(mlp(x), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(eqx.filter_jit(mlp)(x[2, 3]), expected[2, 3], rtol=1e-4, atol=1e-6)


def test_without_hidden_layers_it_is_affine():
    mlp = Mlp((3, 2), jnp.tanh, jax.random.key(2))
    x = 10.0 * jnp.eye(3)
    np.testing.assert_allclose(mlp(x), 10.0 * mlp.layers[0].kernel, rtol=1e-6)


def test_every_layer_starts_as_told():
    mlp = Mlp((4, 4, 4, 4), jax.nn.relu, jax.random.key(3), orthogonal_with(3.0))
    kernels = [layer.kernel for layer in mlp.layers]
    for kernel in kernels:
        np.testing.assert_allclose(kernel.T @ kernel, 9.0 * np.eye(4), atol=1e-4)
    assert jnp.abs(kernels[0] - kernels[1]).max() > 0.1
