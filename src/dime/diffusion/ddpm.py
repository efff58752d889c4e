"""Denoising diffusion (Ho et al. 2020) in the box [-1, 1], as the compared algorithms use it.

`betas` are the noise variances of the steps, beta_1 (nearest to the data) first; a step's index is
its number minus one. alpha_bar is the share of the signal's variance that is left.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

Predict: TypeAlias = Callable[[Array, Array], Array]
"""(noisy, index of the step) to the noise in it; whatever else it depends on is already in it."""


class Noise(NamedTuple):
    """The betas, and what is left of the signal before and after each step."""

    betas: Float[Array, " steps"]
    alpha_bars: Float[Array, " steps"]
    previous_alpha_bars: Float[Array, " steps"]

    @classmethod
    def of(cls, betas: Float[Array, " steps"]) -> "Noise":
        """From the variances alone."""
        alpha_bars = jnp.cumprod(1.0 - betas)
        previous = jnp.concatenate([jnp.ones(1, betas.dtype), alpha_bars[:-1]])
        return cls(betas, alpha_bars, previous)

    def at(self, index: Int[Array, ""]) -> tuple[Array, Array, Array]:
        """beta, alpha_bar and the previous alpha_bar of one step."""
        return self.betas[index], self.alpha_bars[index], self.previous_alpha_bars[index]


def noised(
    clean: Float[Array, "*batch act"],
    noise: Float[Array, "*batch act"],
    alpha_bar: Float[Array, "*batch"],
) -> Float[Array, "*batch act"]:
    """What is left of a clean action: `sqrt(alpha_bar) clean + sqrt(1 - alpha_bar) noise`."""
    remaining = alpha_bar[..., None]
    return jnp.sqrt(remaining) * clean + jnp.sqrt(1.0 - remaining) * noise


def posterior_step(
    noisy: Float[Array, "*batch act"],
    predicted: Float[Array, "*batch act"],
    noise: Noise,
    index: Int[Array, ""],
    draw: Float[Array, "*batch act"],
) -> Float[Array, "*batch act"]:
    """One step towards the data through an estimate of the clean action, clipped to the box.

    Ho et al. 2020, eqs. 6 and 7. After the last step (index 0) the estimate itself is left.
    """
    beta, alpha_bar, previous = noise.at(index)
    clean = (noisy - jnp.sqrt(1.0 - alpha_bar) * predicted) / jnp.sqrt(alpha_bar)
    clean = jnp.clip(clean, -1.0, 1.0)
    mean = jnp.sqrt(previous) * beta * clean + jnp.sqrt(1.0 - beta) * (1.0 - previous) * noisy
    std = jnp.sqrt(beta * (1.0 - previous) / (1.0 - alpha_bar))
    return mean / (1.0 - alpha_bar) + std * draw


def ancestral_step(
    noisy: Float[Array, "*batch act"],
    predicted: Float[Array, "*batch act"],
    noise: Noise,
    index: Int[Array, ""],
    draw: Float[Array, "*batch act"],
) -> Float[Array, "*batch act"]:
    """One step with noise of variance beta, the result clipped to the box (QSM's sampler).

    Unlike `posterior_step` it clips the noisy action itself, and not the clean estimate.
    """
    beta, alpha_bar, _ = noise.at(index)
    mean = (noisy - beta / jnp.sqrt(1.0 - alpha_bar) * predicted) / jnp.sqrt(1.0 - beta)
    std = jnp.where(index > 0, jnp.sqrt(beta), 0.0)
    return jnp.clip(mean + std * draw, -1.0, 1.0)


def denoise(
    predict: Predict,
    step: Callable[..., Array],
    betas: Float[Array, " steps"],
    start: Float[Array, "*batch act"],
    key: Key[Array, ""] | None,
) -> Float[Array, "*batch act"]:
    """The action at the end of a chain from `start`, in [-1, 1]; without a key, without noise."""
    noise = Noise.of(betas)

    def one(noisy, index):
        if key is None:
            draw = jnp.zeros(noisy.shape)
        else:
            draw = jax.random.normal(jax.random.fold_in(key, index), noisy.shape)
        return step(noisy, predict(noisy, index), noise, index, draw), None

    last, _ = jax.lax.scan(one, start, jnp.arange(betas.shape[0])[::-1])
    return jnp.clip(last, -1.0, 1.0)
