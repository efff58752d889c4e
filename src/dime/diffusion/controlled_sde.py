"""Euler-Maruyama chains with a control, and the log-ratio of noising to denoising kernels.

The process without control has N(0, prior_std^2) as its stationary law; the control steers it to
the policy. Sampling order: latent 0 is the prior draw, latent N the last. Equation numbers: Celik
et al. 2025 (DIME).
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Control: TypeAlias = Callable[
    [Float[Array, "*batch act"], Int[Array, ""]], Float[Array, "*batch act"]
]
"""Drift at a latent and a step index; whatever else it depends on (a state) is already in it."""


class Chain(NamedTuple):
    """A sampled chain; `log_ratio` is log(noising / denoising), summed over the steps, in nats."""

    latents: Float[Array, "steps+1 *batch act"]
    log_ratio: Float[Array, "*batch"]


def denoising_mean(
    latent: Float[Array, "*batch act"],
    drift: Float[Array, "*batch act"],
    step_size: Float[Array, " act"],
    prior_std: float,
) -> Float[Array, "*batch act"]:
    """Mean of the kernel that samples the next latent (eq. 12); `drift` is the control's output."""
    return latent + step_size * (drift - latent / prior_std**2)


def noising_mean(
    next_latent: Float[Array, "*batch act"], step_size: Float[Array, " act"], prior_std: float
) -> Float[Array, "*batch act"]:
    """Mean of the kernel that undoes a step (eq. 11). A general bridge adds a control here."""
    return next_latent - step_size * next_latent / prior_std**2


def gaussian_log_prob(
    x: Float[Array, "*batch act"],
    mean: Float[Array, "*#batch act"] | float,
    variance: Float[Array, " #act"] | float,
) -> Float[Array, "*batch"]:
    """Log density of a diagonal Gaussian, summed over the last axis, in nats."""
    return -0.5 * ((x - mean) ** 2 / variance + jnp.log(2.0 * jnp.pi * variance)).sum(axis=-1)


def sample_chain(
    control: Control,
    step_sizes: Float[Array, "steps act"],
    prior_std: float,
    prior_draw: Float[Array, "*batch act"],
    noise: Float[Array, "steps *batch act"],
) -> Chain:
    """Runs the denoising chain from `prior_draw` with the given standard normal noise.

    Each step's two kernels share the variance `2 * step_size`, so their normalisers cancel in the
    ratio (eq. 15). Differentiable in the control and in the step sizes.
    """

    def step(carry, inputs):
        latent, log_ratio = carry
        index, step_size, step_noise = inputs
        variance = 2.0 * step_size
        mean = denoising_mean(latent, control(latent, index), step_size, prior_std)
        next_latent = mean + jnp.sqrt(variance) * step_noise
        undo_error = (latent - noising_mean(next_latent, step_size, prior_std)) ** 2 / variance
        log_ratio = log_ratio + 0.5 * (step_noise**2 - undo_error).sum(axis=-1)
        return (next_latent, log_ratio), next_latent

    indices = jnp.arange(step_sizes.shape[0])
    start = (prior_draw, jnp.zeros_like(prior_draw[..., 0]))
    (_, log_ratio), latents = jax.lax.scan(step, start, (indices, step_sizes, noise))
    return Chain(jnp.concatenate([prior_draw[None], latents]), log_ratio)
