"""Activations, how layers start, the affine layer and the plain multilayer perceptron."""

from collections.abc import Callable
from functools import wraps
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn.initializers import glorot_uniform, lecun_normal
from jaxtyping import Array, Float, Key

_CUBIC = 0.044715
_SLOPE = 0.7978845608028654  # sqrt(2 / pi)
_MISH_LINEAR = 20.0  # from here on mish(x) is x in float32, and exp(4 x) would overflow


def _with_derivative(function: Callable[[Array], tuple[Array, Array]]) -> Callable[[Array], Array]:
    """The first of the two that `function` returns, the second is its derivative.

    It is computed with the value and kept for the backward pass. Recomputing a tanh there, as the
    default rule does, costs a CPU more than the matrix products of a denoising chain.
    """

    @jax.custom_jvp
    @wraps(function)
    def value_of(x):
        return function(x)[0]

    @value_of.defjvp
    def _(primals, tangents):
        value, derivative = function(*primals)
        return value, derivative * tangents[0]

    return value_of


@_with_derivative
def gelu(x):
    """GELU in its tanh form (Hendrycks & Gimpel 2016), `jax.nn.gelu(x, approximate=True)`.

    >>> round(float(gelu(jnp.asarray(1.0))), 4)
    0.8412
    """
    gate = jnp.tanh(_SLOPE * (x + _CUBIC * x**3))
    value = 0.5 * x * (1.0 + gate)
    derivative = 0.5 * (1.0 + gate) + 0.5 * x * (1.0 - gate**2) * _SLOPE * (
        1.0 + 3.0 * _CUBIC * x**2
    )
    return value, derivative


@_with_derivative
def mish(x):
    """Mish (Misra 2019), `x tanh(softplus(x))`, from a single exponential.

    >>> round(float(mish(jnp.asarray(1.0))), 4)
    0.8651
    """
    exp = jnp.exp(jnp.minimum(x, _MISH_LINEAR))
    numerator = exp * (exp + 2.0)
    gate = numerator / (numerator + 2.0)  # tanh(softplus(x))
    return x * gate, gate + x * 4.0 * exp * (exp + 1.0) / (numerator + 2.0) ** 2


Start: TypeAlias = Callable[
    [Key[Array, ""], int, int], tuple[Float[Array, "in_dim out_dim"], Float[Array, " out_dim"]]
]


def with_zero_bias(kernel_init: Callable[..., Array]) -> Start:
    """A kernel from an initialiser like JAX's, and a bias of 0."""

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
    the same up to rounding): several of those in one program, each with its own threads, were
    seen to wait for each other forever on a CPU.
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
    return with_zero_bias(
        lambda key, shape, _: gain * shape[0] ** -0.5 * jax.random.normal(key, shape)
    )


def truncated_normal_with(gain: float) -> Start:
    """Normal with standard deviation `gain / sqrt(in_dim)`, redrawn outside 2 of them; bias 0.

    The cut makes the draws narrower than their name says, by 0.88.
    """

    def kernel(key, shape, _):
        return gain * shape[0] ** -0.5 * jax.random.truncated_normal(key, -2.0, 2.0, shape)

    return with_zero_bias(kernel)


def uniform_fan_in(
    key: Key[Array, ""], in_dim: int, out_dim: int
) -> tuple[Float[Array, "in_dim out_dim"], Float[Array, " out_dim"]]:
    """Kernel and bias uniform within +- 1 / sqrt(in_dim), PyTorch's default."""
    kernel_key, bias_key = jax.random.split(key)
    bound = in_dim**-0.5
    kernel = jax.random.uniform(kernel_key, (in_dim, out_dim), minval=-bound, maxval=bound)
    return kernel, jax.random.uniform(bias_key, (out_dim,), minval=-bound, maxval=bound)


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
