"""Activation functions with derivative rules chosen for speed."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_CUBIC = 0.044715
_SLOPE = 0.7978845608028654  # sqrt(2 / pi)


def _gelu_and_derivative(
    x: Float[Array, "..."],
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    gate = jnp.tanh(_SLOPE * (x + _CUBIC * x**3))
    value = 0.5 * x * (1.0 + gate)
    derivative = 0.5 * (1.0 + gate) + 0.5 * x * (1.0 - gate**2) * _SLOPE * (
        1.0 + 3.0 * _CUBIC * x**2
    )
    return value, derivative


@jax.custom_jvp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """GELU in its tanh form (Hendrycks & Gimpel 2016), `jax.nn.gelu(x, approximate=True)`.

    The derivative is computed beside the value and kept for the backward pass. Recomputing the
    tanh there, as the default rule does, costs more than the matrix products of a denoising
    chain on a CPU.

    >>> round(float(gelu(jnp.asarray(1.0))), 4)
    0.8412
    """
    return _gelu_and_derivative(x)[0]


@gelu.defjvp
def _gelu_jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    value, derivative = _gelu_and_derivative(x)
    return value, derivative * tangent


_MISH_LINEAR = 20.0  # from here on mish(x) is x in float32, and exp(4 x) would overflow


def _mish_and_derivative(
    x: Float[Array, "..."],
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    exp = jnp.exp(jnp.minimum(x, _MISH_LINEAR))
    numerator = exp * (exp + 2.0)
    gate = numerator / (numerator + 2.0)  # tanh(softplus(x))
    return x * gate, gate + x * 4.0 * exp * (exp + 1.0) / (numerator + 2.0) ** 2


@jax.custom_jvp
def mish(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Mish (Misra 2019), `x tanh(softplus(x))`, from a single exponential.

    As for `gelu`, the derivative is computed beside the value. Written with logarithm and tanh it
    costs a CPU as much as the matrix products between which it stands.

    >>> round(float(mish(jnp.asarray(1.0))), 4)
    0.8651
    """
    return _mish_and_derivative(x)[0]


@mish.defjvp
def _mish_jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    value, derivative = _mish_and_derivative(x)
    return value, derivative * tangent
