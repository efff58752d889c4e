"""The plain multilayer perceptron."""

from collections.abc import Callable

import equinox as eqx
from jax.nn.initializers import Initializer, lecun_normal
from jaxtyping import Array, Float, Key

from dime.networks.dense import Dense, dense_stack


class Mlp(eqx.Module):
    """Dense layers of widths `sizes[0], sizes[1], ...`, an activation after all but the last."""

    layers: tuple[Dense, ...]
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        sizes: tuple[int, ...],
        activation: Callable[[Array], Array],
        key: Key[Array, ""],
        kernel_init: Initializer = lecun_normal(),  # noqa: B008  a pure function
    ):
        self.layers = dense_stack(sizes, key, kernel_init)
        self.activation = activation

    def __call__(self, x: Float[Array, "*batch in_dim"]) -> Float[Array, "*batch out_dim"]:
        """The last layer's output."""
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)
