"""From unbounded latents to actions in (-1, 1)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def tanh_log_det(latent: Float[Array, "*batch act"]) -> Float[Array, "*batch"]:
    """Log determinant of tanh's Jacobian, `sum log(1 - tanh(u)^2)`, in nats (DIME eq. 59).

    In the form that does not cancel for large latents.

    >>> float(tanh_log_det(jnp.array([0.0, 50.0]))).__round__(3)
    -98.614
    """
    return 2.0 * (jnp.log(2.0) - latent - jax.nn.softplus(-2.0 * latent)).sum(axis=-1)
