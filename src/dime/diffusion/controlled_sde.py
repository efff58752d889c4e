"""Euler-Maruyama chains with a control, and the log-ratio of noising to denoising kernels.

Without control the process keeps N(0, prior_std^2) as its distribution; the control steers it to
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


def no_control(latent: Float[Array, "*batch act"], step: Int[Array, ""]) -> Float[Array, ""]:
    """The noising kernel of DIME has no network."""
    return jnp.zeros(())


class Chain(NamedTuple):
    """A sampled chain; `log_ratio` is log(noising / denoising), summed over the steps, in nats."""

    latents: Float[Array, "steps+1 *batch act"]
    log_ratio: Float[Array, "*batch"]


def kernel_mean(
    latent: Float[Array, "*batch act"],
    drift: Float[Array, "*batch act"] | Float[Array, ""],
    step_size: Float[Array, " act"],
    prior_std: float,
) -> Float[Array, "*batch act"]:
    """Mean of a step from `latent`, in either direction; `drift` is that direction's control.

    Of the kernel that samples the next latent (eq. 12), and of the one that undoes a step (eq. 11),
    whose control is 0 but in a general bridge.
    """
    return latent + step_size * (drift - latent / prior_std**2)


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
    noising_control: Control = no_control,
) -> Chain:
    """Runs the denoising chain from `prior_draw` with the given standard normal noise.

    Each step's two kernels share the variance `2 * step_size`, so their normalisers cancel in the
    ratio (eq. 15). Differentiable in the controls and in the step sizes.
    """

    def step(carry, inputs):
        latent, log_ratio = carry
        index, step_size, step_noise = inputs
        variance = 2.0 * step_size
        mean = kernel_mean(latent, control(latent, index), step_size, prior_std)
        next_latent = mean + jnp.sqrt(variance) * step_noise
        # The barrier keeps the compiler from folding a drift of 0 into what follows, so that a
        # bridge whose second network is 0 is DIME to the last bit.
        drift = jax.lax.optimization_barrier(noising_control(next_latent, index + 1))
        undone = kernel_mean(next_latent, drift, step_size, prior_std)
        undo_error = (latent - undone) ** 2 / variance
        log_ratio = log_ratio + 0.5 * (step_noise**2 - undo_error).sum(axis=-1)
        return (next_latent, log_ratio), next_latent

    indices = jnp.arange(step_sizes.shape[0])
    start = (prior_draw, jnp.zeros_like(prior_draw[..., 0]))
    (_, log_ratio), latents = jax.lax.scan(step, start, (indices, step_sizes, noise))
    return Chain(jnp.concatenate([prior_draw[None], latents]), log_ratio)


def log_ratio_of(
    control: Control,
    step_sizes: Float[Array, "steps act"],
    prior_std: float,
    latents: Float[Array, "steps+1 *batch act"],
    noising_control: Control = no_control,
) -> Float[Array, "*batch"]:
    """log(noising / denoising) of given latents, summed over the steps, in nats.

    What `sample_chain` returns as `log_ratio`, as a function of the controls with the path fixed.
    """

    def of_step(index, step_size, latent, next_latent):
        mean = kernel_mean(latent, control(latent, index), step_size, prior_std)
        drift = noising_control(next_latent, index + 1)
        undone = kernel_mean(next_latent, drift, step_size, prior_std)
        errors = (next_latent - mean) ** 2 - (latent - undone) ** 2
        return (errors / (4.0 * step_size)).sum(axis=-1)

    indices = jnp.arange(step_sizes.shape[0])
    return jax.vmap(of_step)(indices, step_sizes, latents[:-1], latents[1:]).sum(axis=0)
