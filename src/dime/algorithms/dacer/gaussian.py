"""DACER's critics: a Gaussian over the return (Duan et al. 2023, Wang et al. 2024).

Outputs are pairs: the mean, and what softplus makes the standard deviation of.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dime.critics.heads import smallest

_SPREAD_RATE = 0.005
_MIN_VARIANCE = 0.1
_MAX_DRAW = 3.0


class GaussianReturn(NamedTuple):
    """Mean and standard deviation of the return, in units of return."""

    mean: Float[Array, "*batch"]
    std: Float[Array, "*batch"]

    @classmethod
    def of(cls, output: Float[Array, "*batch 2"]) -> "GaussianReturn":
        """From a critic's output."""
        return cls(output[..., 0], jax.nn.softplus(output[..., 1]))


class GaussianHead:
    """Mean and standard deviation of the return, from two outputs."""

    output_dim = 2

    def combined_value(self, output: Float[Array, "critics *batch 2"]) -> Float[Array, "*batch"]:
        """The smaller mean."""
        return smallest(GaussianReturn.of(output).mean)


class GaussianTarget(NamedTuple):
    """What a critic is trained towards: a mean, and a draw that the spread is learnt from."""

    mean: Float[Array, " batch"]
    draw: Float[Array, " batch"]


def gaussian_target(
    next_return: GaussianReturn,
    reward: Float[Array, " batch"],
    discount: Float[Array, " batch"],
    key: Key[Array, ""],
) -> GaussianTarget:
    """The backup of the critic with the smaller mean; fields of `next_return` lead with critics.

    The draw is cut at three standard deviations.
    """
    noise = jax.random.normal(key, next_return.mean.shape)
    draws = next_return.mean + next_return.std * jnp.clip(noise, -_MAX_DRAW, _MAX_DRAW)
    smaller = next_return.mean.argmin(axis=0)[None]
    mean, draw = (
        jnp.take_along_axis(values, smaller, axis=0)[0] for values in (next_return.mean, draws)
    )
    return GaussianTarget(reward + discount * mean, reward + discount * draw)


def follow_spread(
    spread: Float[Array, " critics"], std: Float[Array, "critics batch"]
) -> Float[Array, " critics"]:
    """The running mean of each critic's standard deviation; 0 means none yet."""
    current = std.mean(axis=-1)
    moved = (1.0 - _SPREAD_RATE) * spread + _SPREAD_RATE * current
    return jnp.where(spread > 0.0, moved, current)


def gaussian_loss(
    returns: GaussianReturn, target: GaussianTarget, spread: Float[Array, " critics"]
) -> Float[Array, ""]:
    """A loss with the gradients of DSAC-T's Gaussian likelihood, summed over the critics.

    The mean is drawn to the target's mean; the variance to the squared distance of the target's
    draw, cut at three spreads. Each critic's gradient is scaled by its variance (Duan et al. 2023).
    """
    mean, std = jax.lax.stop_gradient(returns)
    bound = _MAX_DRAW * spread[:, None]
    distance = jnp.clip(target.draw - mean, -bound, bound)
    towards_mean = (target.mean - mean) / (std**2 + _MIN_VARIANCE)
    towards_std = (distance**2 - std**2) / (std**3 + _MIN_VARIANCE)
    gain = (returns.mean * towards_mean + returns.std * towards_std).mean(axis=-1)
    return -((spread**2 + _MIN_VARIANCE) * gain).sum()
