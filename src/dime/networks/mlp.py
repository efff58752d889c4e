"""The plain multilayer perceptron."""

from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array, Float, Key

from dime.networks.dense import Dense, dense_stack
from dime.networks.initializers import Start, lecun


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
