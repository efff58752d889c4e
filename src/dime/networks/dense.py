"""The affine layer."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer, lecun_normal
from jaxtyping import Array, Float, Key


class Dense(eqx.Module):
    """`x @ kernel + bias` over the last axis, any leading axes.

    Kernels start as LeCun normal unless told otherwise, biases at 0.
    """

    kernel: Float[Array, "in_dim out_dim"]
    bias: Float[Array, " out_dim"]

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        key: Key[Array, ""],
        kernel_init: Initializer = lecun_normal(),  # noqa: B008  a pure function
    ):
        self.kernel = kernel_init(key, (in_dim, out_dim), jnp.float32)
        self.bias = jnp.zeros(out_dim)

    def __call__(self, x: Float[Array, "*batch in_dim"]) -> Float[Array, "*batch out_dim"]:
        """The layer's output."""
        return x @ self.kernel + self.bias


def dense_stack(
    sizes: tuple[int, ...],
    key: Key[Array, ""],
    kernel_init: Initializer = lecun_normal(),  # noqa: B008  a pure function
) -> tuple[Dense, ...]:
    """Dense layers of widths `sizes[0] -> sizes[1] -> ...`, one key each."""
    keys = jax.random.split(key, len(sizes) - 1)
    pairs = zip(sizes[:-1], sizes[1:], strict=True)
    return tuple(Dense(i, o, k, kernel_init) for (i, o), k in zip(pairs, keys, strict=True))
