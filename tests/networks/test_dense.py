"""The affine layer: its formula, its start, and its independence from leading axes."""

import jax
import jax.numpy as jnp
import numpy as np

from dime.networks.layers import Dense, dense_stack


def test_is_affine_over_the_last_axis():
    layer_key, bias_key, x_key = jax.random.split(jax.random.key(0), 3)
    layer = Dense(3, 2, layer_key)
    bias = jax.random.normal(bias_key, (2,))
    layer = jax.tree.unflatten(jax.tree.structure(layer), [layer.kernel, bias])
    x = jax.random.normal(x_key, (4, 5, 3))
    expected = np.einsum("abi,io->abo", x, layer.kernel) + np.asarray(bias)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer(x[1, 2]), expected[1, 2], rtol=1e-5, atol=1e-6)


def test_starts_lecun_normal_with_zero_bias():
    layer = Dense(400, 300, jax.random.key(1))
    np.testing.assert_allclose(layer.kernel.std() * 20.0, 1.0, atol=0.02)  # 1 / sqrt(in_dim)
    np.testing.assert_allclose(layer.kernel.mean(), 0.0, atol=1e-3)
    np.testing.assert_array_equal(layer.bias, jnp.zeros(300))


def test_stack_has_the_widths_and_a_key_per_layer():
    layers = dense_stack((4, 6, 6, 6), jax.random.key(2))
    assert [layer.kernel.shape for layer in layers] == [(4, 6), (6, 6), (6, 6)]
    assert jnp.abs(layers[1].kernel - layers[2].kernel).max() > 0.1
