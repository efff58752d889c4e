"""The affine layer and the plain multilayer perceptron."""

from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key

from dime.networks.initializers import Start, lecun


class Dense(eqx.Module):
    """`x @ kernel + bias` over the last axis, any leading axes."""

    kernel: Float[Array, "in_dim out_dim"]
    bias: Float[Array, " out_dim"]

    def __init__(self, in_dim: int, out_dim: int, key: Key[Array, ""], start: Start = lecun):
        self.kernel, self.bias = start(key, in_dim, out_dim)

    def __call__(self, x: Float[Array, "*batch in_dim"]) -> Float[Array, "*batch out_dim"]:
        """The layer's output."""
        return x @ self.kernel + self.bias


def dense_stack(
    sizes: tuple[int, ...], key: Key[Array, ""], start: Start = lecun
) -> tuple[Dense, ...]:
    """Dense layers of widths `sizes[0] -> sizes[1] -> ...`, one key each."""
    keys = jax.random.split(key, len(sizes) - 1)
    pairs = zip(sizes[:-1], sizes[1:], strict=True)
    return tuple(Dense(i, o, k, start) for (i, o), k in zip(pairs, keys, strict=True))


class Mlp(eqx.Module):
    """Dense layers of widths `sizes[0], sizes[1], ...`, an activation after all but the last."""

    layers: tuple[Dense, ...]
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        sizes: tuple[int, ...],
        activation: Callable[[Array], Array],
        key: Key[Array, ""],
        start: Start = lecun,
    ):
        self.layers = dense_stack(sizes, key, start)
        self.activation = activation

    def __call__(self, x: Float[Array, "*batch in_dim"]) -> Float[Array, "*batch out_dim"]:
        """The last layer's output."""
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)
