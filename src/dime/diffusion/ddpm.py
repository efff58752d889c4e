"""Denoising diffusion (Ho et al. 2020) in the box [-1, 1], as the compared algorithms use it.

`betas` are the noise variances of the steps, beta_1 (nearest to the data) first; a step's index is
its number minus one. alpha_bar is the share of the signal's variance that is left. A step's factors
are computed in double precision on the host: 1 - alpha_bar is small near the data.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

Predict: TypeAlias = Callable[[Array, Array], Array]
"""(noisy, index of the step) to the noise in it; whatever else it depends on is already in it."""


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
    offset = 1.008 - 1.0
    time = np.arange(num_steps + 1) / num_steps
    remaining = np.cos((time + offset) / 1.008 * 0.5 * np.pi) ** 2
    return np.clip(1.0 - remaining[1:] / remaining[:-1], 0.0, 0.999)


class Noise(NamedTuple):
    """The betas, and what is left of the signal before and after each step."""

    betas: Float[np.ndarray, " steps"]
    alpha_bars: Float[np.ndarray, " steps"]
    previous_alpha_bars: Float[np.ndarray, " steps"]

    @classmethod
    def of(cls, betas: Float[np.ndarray, " steps"]) -> "Noise":
        """From the variances alone."""
        alpha_bars = np.cumprod(1.0 - betas)
        return cls(betas, alpha_bars, np.concatenate([[1.0], alpha_bars[:-1]]))


def noised(
    clean: Float[Array, "*batch act"],
    draw: Float[Array, "*batch act"],
    noise: Noise,
    index: Int[Array, "*batch"],
) -> Float[Array, "*batch act"]:
    """What each row's step leaves: `sqrt(alpha_bar) clean + sqrt(1 - alpha_bar) draw`."""
    signal, spread = _at(index, np.sqrt(noise.alpha_bars), np.sqrt(1.0 - noise.alpha_bars))
    return signal[..., None] * clean + spread[..., None] * draw


def _at(index: Int[Array, "*batch"], *factors: Float[np.ndarray, " steps"]) -> list[Array]:
    """Each factor at these steps."""
    return [jnp.asarray(factor)[index] for factor in factors]


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
    betas, alpha_bars, previous = noise
    signal, spread, of_clean, of_noisy, std = _at(
        index,
        np.sqrt(alpha_bars),
        np.sqrt(1.0 - alpha_bars),
        np.sqrt(previous) * betas / (1.0 - alpha_bars),
        np.sqrt(1.0 - betas) * (1.0 - previous) / (1.0 - alpha_bars),
        np.sqrt(betas * (1.0 - previous) / (1.0 - alpha_bars)),
    )
    clean = jnp.clip((noisy - spread * predicted) / signal, -1.0, 1.0)
    return of_clean * clean + of_noisy * noisy + std * draw


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
    betas, alpha_bars, _ = noise
    kept, of_predicted, std = _at(
        index, np.sqrt(1.0 - betas), betas / np.sqrt(1.0 - alpha_bars), np.sqrt(betas)
    )
    mean = (noisy - of_predicted * predicted) / kept
    return jnp.clip(mean + jnp.where(index > 0, std, 0.0) * draw, -1.0, 1.0)


def denoise(
    predict: Predict,
    step: Callable[..., Array],
    betas: Float[np.ndarray, " steps"],
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
