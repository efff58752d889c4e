"""How the diffusion of a chain is spread over its steps."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_OFFSET = 1.008
_FLOOR = 1e-3


def cosine_profile(num_steps: int) -> Float[Array, " steps"]:
    """Relative step sizes c(n), from nearly 1 at the noise end down to 1e-3 and above.

    DIME appendix D, counted in sampling order: step 0 starts from the prior.

    >>> [round(float(c), 4) for c in cosine_profile(4)]
    [0.9998, 0.847, 0.4943, 0.1451]
    """
    time = (num_steps - jnp.arange(num_steps)) / num_steps
    cosine = jnp.cos(0.5 * jnp.pi * (_OFFSET - time) / _OFFSET)
    return (1.0 - _FLOOR) * cosine**2 + _FLOOR


def learnt_step_sizes(
    raw_scale: Float[Array, ""], raw_dim_divisor: Float[Array, " act"], num_steps: int
) -> Float[Array, "steps act"]:
    """Integrated diffusion eta_n of every step and dimension (DIME appendix D and G, figure 7).

    `eta_n = softplus(raw_scale) * c(n) / softplus(raw_dim_divisor)`: one learnt number for all,
    one per action dimension.
    """
    per_step = jax.nn.softplus(raw_scale) * cosine_profile(num_steps)
    return per_step[:, None] / jax.nn.softplus(raw_dim_divisor)


def inverse_softplus(value: float) -> Float[Array, ""]:
    """The number whose softplus is `value` > 0."""
    return jnp.log(jnp.expm1(jnp.float32(value)))
