"""Batch renormalisation (Ioffe 2017) as CrossQ and DIME released it, and its perceptron."""

from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dime.networks.layers import Dense, dense_stack

MOMENTUM = 0.99
EPSILON = 1e-3
MAX_SCALE_RATIO = 3.0  # r is kept within [1/3, 3]
MAX_SHIFT = 5.0  # d is kept within [-5, 5]
WARMUP_CALLS = 100_000


class RunningStats(eqx.Module):
    """Running mean and variance per feature, and how many training calls made them."""

    mean: Float[Array, " features"]
    variance: Float[Array, " features"]
    num_calls: Int[Array, ""]

    @classmethod
    def start(cls, num_features: int) -> "RunningStats":
        """Mean 0, variance 1, no call made."""
        return cls(jnp.zeros(num_features), jnp.ones(num_features), jnp.zeros((), jnp.int32))


def _safe_sqrt(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The square root with derivative 0 at 0, where the plain one has infinity."""
    positive = x > 0.0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


class BatchRenorm(eqx.Module):
    """Normalises each feature over the batch, corrected towards the running statistics.

    During the first `warmup_calls` training calls it is plain batch normalisation. Feature
    columns that are constant over the batch are safe: the variance is clamped at 0 and the
    derivative of its root there is 0. Without that guard, as in the released code, the gradient in
    `x` is NaN there after the warm-up; those in `scale` and `bias` are finite.
    """

    scale: Float[Array, " features"]
    bias: Float[Array, " features"]
    warmup_calls: int = eqx.field(static=True)

    def __init__(self, num_features: int, warmup_calls: int = WARMUP_CALLS):
        self.scale = jnp.ones(num_features)
        self.bias = jnp.zeros(num_features)
        self.warmup_calls = warmup_calls

    def __call__(
        self, x: Float[Array, "*batch features"], running: RunningStats
    ) -> Float[Array, "*batch features"]:
        """Evaluation mode: the running statistics normalise."""
        return self._normalise(x, running.mean, running.variance)

    def train(
        self, x: Float[Array, "batch features"], running: RunningStats
    ) -> tuple[Float[Array, "batch features"], RunningStats]:
        """Training mode: the normalised batch, and the running statistics after it.

        Gradients flow through the batch's mean and variance, not through r and d (DIME's released
        code: no epsilon inside the root that multiplies d, epsilon added after dividing by r^2).
        """
        mean = x.mean(axis=0)
        variance = jnp.maximum((x**2).mean(axis=0) - mean**2, 0.0)
        running_std = jnp.sqrt(running.variance + EPSILON)
        warm = running.num_calls >= self.warmup_calls
        ratio = jnp.sqrt(variance + EPSILON) / running_std
        r = jnp.where(warm, jnp.clip(ratio, 1.0 / MAX_SCALE_RATIO, MAX_SCALE_RATIO), 1.0)
        shift = (mean - running.mean) / running_std
        d = jnp.where(warm, jnp.clip(shift, -MAX_SHIFT, MAX_SHIFT), 0.0)
        r, d = jax.lax.stop_gradient((r, d))
        y = self._normalise(x, mean - d * _safe_sqrt(variance) / r, variance / r**2)
        mean, variance = jax.lax.stop_gradient((mean, variance))
        updated = RunningStats(
            mean=MOMENTUM * running.mean + (1.0 - MOMENTUM) * mean,
            variance=MOMENTUM * running.variance + (1.0 - MOMENTUM) * variance,
            num_calls=running.num_calls + 1,
        )
        return y, updated

    def _normalise(self, x, mean, variance):
        return (x - mean) * (self.scale * jax.lax.rsqrt(variance + EPSILON)) + self.bias


Stats: TypeAlias = tuple[RunningStats, ...]
"""Running statistics of each normalisation layer, from input to output."""


class BatchRenormMlp(eqx.Module):
    """BatchRenorm of the input; Dense, ReLU, BatchRenorm per hidden layer; Dense."""

    norms: tuple[BatchRenorm, ...]
    hidden: tuple[Dense, ...]
    output: Dense

    def __init__(self, sizes: tuple[int, ...], warmup_calls: int, key: Key[Array, ""]):
        hidden_key, output_key = jax.random.split(key)
        self.norms = tuple(BatchRenorm(width, warmup_calls) for width in sizes[:-1])
        self.hidden = dense_stack(sizes[:-1], hidden_key)
        self.output = Dense(sizes[-2], sizes[-1], output_key)

    def initial_stats(self) -> Stats:
        """Running statistics before any training call."""
        return tuple(RunningStats.start(norm.scale.shape[-1]) for norm in self.norms)

    def __call__(
        self, x: Float[Array, "*batch in_dim"], stats: Stats
    ) -> Float[Array, "*batch out"]:
        """Evaluation mode: the running statistics normalise."""
        x = self.norms[0](x, stats[0])
        for layer, norm, running in zip(self.hidden, self.norms[1:], stats[1:], strict=True):
            x = norm(jax.nn.relu(layer(x)), running)
        return self.output(x)

    def train(
        self, x: Float[Array, "batch in_dim"], stats: Stats
    ) -> tuple[Float[Array, "batch out"], Stats]:
        """Training mode: the batch's statistics normalise, and move the running ones."""
        x, updated = self.norms[0].train(x, stats[0])
        updated_stats = [updated]
        for layer, norm, running in zip(self.hidden, self.norms[1:], stats[1:], strict=True):
            x, updated = norm.train(jax.nn.relu(layer(x)), running)
            updated_stats.append(updated)
        return self.output(x), tuple(updated_stats)
