"""BroNet (Nauman et al. 2024): a residual network with layer normalisation."""

from math import sqrt

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dime.networks.layers import Dense, dense_stack, orthogonal_with

_EPSILON = 1e-6
BRO_START = orthogonal_with(sqrt(2.0))


class LayerNorm(eqx.Module):
    """Each row to mean 0 and variance 1 over its features, then scale and bias."""

    scale: Float[Array, " features"]
    bias: Float[Array, " features"]

    def __init__(self, num_features: int):
        self.scale = jnp.ones(num_features)
        self.bias = jnp.zeros(num_features)

    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
        """The normalised rows."""
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = (centred**2).mean(axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + _EPSILON) * self.scale + self.bias


class ResidualBlock(eqx.Module):
    """`x + norm(dense(relu(norm(dense(x)))))`."""

    dense: tuple[Dense, ...]
    norms: tuple[LayerNorm, LayerNorm]

    def __init__(self, width: int, key: Key[Array, ""]):
        self.dense = dense_stack((width, width, width), key, BRO_START)
        self.norms = (LayerNorm(width), LayerNorm(width))

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        """The block's output."""
        inner = jax.nn.relu(self.norms[0](self.dense[0](x)))
        return x + self.norms[1](self.dense[1](inner))


class BroTrunk(eqx.Module):
    """Dense, normalisation, ReLU; residual blocks. Orthogonal kernels of gain sqrt(2)."""

    first: Dense
    norm: LayerNorm
    blocks: tuple[ResidualBlock, ...]

    def __init__(self, in_dim: int, width: int, num_blocks: int, key: Key[Array, ""]):
        first_key, *block_keys = jax.random.split(key, 1 + num_blocks)
        self.first = Dense(in_dim, width, first_key, BRO_START)
        self.norm = LayerNorm(width)
        self.blocks = tuple(ResidualBlock(width, block_key) for block_key in block_keys)

    def __call__(self, x: Float[Array, "*batch in_dim"]) -> Float[Array, "*batch width"]:
        """The last block's output."""
        x = jax.nn.relu(self.norm(self.first(x)))
        for block in self.blocks:
            x = block(x)
        return x


class BroNet(eqx.Module):
    """The trunk, and a Dense layer after it."""

    trunk: BroTrunk
    output: Dense

    def __init__(self, sizes: tuple[int, int, int], num_blocks: int, key: Key[Array, ""]):
        in_dim, width, out_dim = sizes
        trunk_key, output_key = jax.random.split(key)
        self.trunk = BroTrunk(in_dim, width, num_blocks, trunk_key)
        self.output = Dense(width, out_dim, output_key, BRO_START)

    def __call__(self, x: Float[Array, "*batch in_dim"]) -> Float[Array, "*batch out"]:
        """The last layer's output."""
        return self.output(self.trunk(x))
