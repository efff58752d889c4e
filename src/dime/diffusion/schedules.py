"""How the diffusion of a chain is spread over its steps."""

import jax
import jax.numpy as jnp
import numpy as np
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


def variance_preserving_betas(num_steps: int) -> Float[np.ndarray, " steps"]:
    """Noise variances of a discretised variance-preserving process (Song et al. 2021).

    beta_1 first, the step nearest to the data. What is left of the signal's variance after all
    steps is exp(-5.05) for every length: the last noisy action is not quite N(0, I). In double
    precision, on the host.

    >>> [round(float(beta), 3) for beta in variance_preserving_betas(5)]
    [0.196, 0.459, 0.636, 0.755, 0.835]
    """
    low, high = 0.1, 10.0
    step = np.arange(1, num_steps + 1)
    rate = low / num_steps + 0.5 * (high - low) * (2 * step - 1) / num_steps**2
    return -np.expm1(-rate)


def cosine_betas(num_steps: int) -> Float[np.ndarray, " steps"]:
    """Noise variances of the cosine schedule (Nichol & Dhariwal 2021), beta_1 first, below 0.999.

    In double precision, on the host: neighbouring cosines nearly cancel.

    >>> [round(float(beta), 3) for beta in cosine_betas(4)]
    [0.153, 0.417, 0.708, 0.999]
    """
    offset = _OFFSET - 1.0
    time = np.arange(num_steps + 1) / num_steps
    remaining = np.cos((time + offset) / _OFFSET * 0.5 * np.pi) ** 2
    return np.clip(1.0 - remaining[1:] / remaining[:-1], 0.0, 0.999)
