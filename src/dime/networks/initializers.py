"""How layers start: `(key, in_dim, out_dim) -> kernel, bias`."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer, glorot_uniform, lecun_normal
from jaxtyping import Array, Float, Key

Start: TypeAlias = Callable[
    [Key[Array, ""], int, int], tuple[Float[Array, "in_dim out_dim"], Float[Array, " out_dim"]]
]


def with_zero_bias(kernel_init: Initializer) -> Start:
    """A kernel from one of JAX's initialisers, and a bias of 0."""

    def start(key, in_dim, out_dim):
        return kernel_init(key, (in_dim, out_dim), jnp.float32), jnp.zeros(out_dim)

    return start


lecun: Start = with_zero_bias(lecun_normal())
"""Normal with variance 1 / in_dim; bias 0."""

xavier: Start = with_zero_bias(glorot_uniform())
"""Uniform with variance 2 / (in_dim + out_dim); bias 0."""


def orthogonal_with(gain: float) -> Start:
    """An orthogonal kernel times `gain`; bias 0.

    By Gram-Schmidt, each column twice, in place of the library's QR decomposition (the numbers are
    the same up to rounding): several of those in one program, each with threads of its own, were
    seen to wait for each other for ever on a CPU.
    """

    def start(key, in_dim, out_dim):
        draws = jax.random.normal(key, (max(in_dim, out_dim), min(in_dim, out_dim)))

        def add(basis, numbered_column):
            index, column = numbered_column
            for _ in range(2):
                column = column - (basis @ column) @ basis
            return basis.at[index].set(column / jnp.linalg.norm(column)), None

        columns = (jnp.arange(draws.shape[1]), draws.T)
        basis, _ = jax.lax.scan(add, jnp.zeros_like(draws.T), columns)
        kernel = basis.T if in_dim >= out_dim else basis
        return gain * kernel, jnp.zeros(out_dim)

    return start


def normal_with(gain: float) -> Start:
    """Normal with standard deviation `gain / sqrt(in_dim)`; bias 0."""

    def start(key, in_dim, out_dim):
        draws = jax.random.normal(key, (in_dim, out_dim))
        return gain * in_dim**-0.5 * draws, jnp.zeros(out_dim)

    return start


def truncated_normal_with(gain: float) -> Start:
    """Normal with standard deviation `gain / sqrt(in_dim)`, drawn anew outside 2 of them; bias 0.

    The cut makes the draws narrower than their name says, by 0.88.
    """

    def start(key, in_dim, out_dim):
        draws = jax.random.truncated_normal(key, -2.0, 2.0, (in_dim, out_dim))
        return gain * in_dim**-0.5 * draws, jnp.zeros(out_dim)

    return start


def uniform_fan_in(
    key: Key[Array, ""], in_dim: int, out_dim: int
) -> tuple[Float[Array, "in_dim out_dim"], Float[Array, " out_dim"]]:
    """Kernel and bias uniform within +- 1 / sqrt(in_dim), PyTorch's default."""
    kernel_key, bias_key = jax.random.split(key)
    bound = in_dim**-0.5
    kernel = jax.random.uniform(kernel_key, (in_dim, out_dim), minval=-bound, maxval=bound)
    return kernel, jax.random.uniform(bias_key, (out_dim,), minval=-bound, maxval=bound)
