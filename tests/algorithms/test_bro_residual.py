"""BroNet and its parts against their formulae in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dime.algorithms.bro.networks import BroNet, BroTrunk, LayerNorm, ResidualBlock
from tests.drawn import drawn, normal

WIDTH = 6


def dense(layer, x):
    return x @ np.asarray(layer.kernel, np.float64) + np.asarray(layer.bias)


def norm(layer, x):
    """Flax's layer normalisation."""
    centred = x - x.mean(axis=-1, keepdims=True)
    standard = centred / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
    return standard * np.asarray(layer.scale) + np.asarray(layer.bias)


def block(layers, x):
    inner = np.maximum(norm(layers.norms[0], dense(layers.dense[0], x)), 0.0)
    return x + norm(layers.norms[1], dense(layers.dense[1], inner))


def trunk(layers, x):
    x = np.maximum(norm(layers.norm, dense(layers.first, x)), 0.0)
    for one in layers.blocks:
        x = block(one, x)
    return x


def assert_is(make, formula, in_dim):
    """The module that `make` makes computes `formula`, over any leading axes."""
    module, x = drawn(make), normal(9, 2, 5, in_dim)
    expected = formula(module, np.asarray(x, np.float64))
    np.testing.assert_allclose(jax.jit(type(module).__call__)(module, x), expected, atol=1e-4)
    assert jax.eval_shape(module, x[1, 2]).shape == expected[1, 2].shape


def test_layer_norm():
    assert_is(lambda _: LayerNorm(WIDTH), norm, WIDTH)
    # So narrow that the 1e-6 halves it: the values' variance is 1e-6.
    narrow = jnp.array([0.001, -0.001, 0.001, -0.001])
    np.testing.assert_allclose(jnp.abs(LayerNorm(4)(narrow)), np.full(4, 0.5**0.5), rtol=1e-3)


def test_layer_norm_of_a_constant_row_is_its_bias():
    layer, row = drawn(lambda _: LayerNorm(WIDTH)), jnp.full(WIDTH, 7.0)
    value, gradient = jax.jit(lambda x: (layer(x), jax.grad(lambda x: layer(x).sum())(x)))(row)
    np.testing.assert_allclose(value, layer.bias, atol=1e-6)
    assert np.isfinite(gradient).all()


def test_residual_block():
    assert_is(partial(ResidualBlock, WIDTH), block, WIDTH)


def test_trunk():
    assert_is(partial(BroTrunk, 4, WIDTH, 2), trunk, 4)


def test_net_is_the_trunk_and_a_dense_layer():
    make = partial(BroNet, (4, WIDTH, 3), 1)
    assert_is(make, lambda net, x: dense(net.output, trunk(net.trunk, x)), 4)


def test_kernels_start_orthogonal_with_gain_sqrt_two():
    net = jax.jit(partial(BroNet, (4, WIDTH, 3), 2))(jax.random.key(1))
    blocks = [layer for one in net.trunk.blocks for layer in one.dense]
    assert len(blocks) == 4
    for layer in [net.trunk.first, net.output, *blocks]:
        singular = np.linalg.svd(layer.kernel, compute_uv=False)
        np.testing.assert_allclose(singular, np.sqrt(2.0), rtol=1e-5)
        assert not layer.bias.any()
    assert np.abs(np.asarray(blocks[0].kernel) - np.asarray(blocks[2].kernel)).max() > 0.1
