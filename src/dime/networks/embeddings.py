"""What networks receive of the denoising step or the time: Fourier features."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num

from dime.networks.activations import gelu, mish
from dime.networks.initializers import Start, lecun
from dime.networks.layers import Dense, Mlp


class StepEmbedding(eqx.Module):
    """Fourier features of the raw step index with learnt phases, then Dense, GELU, Dense.

    The frequencies are fixed (0.1 to 100); the features are `[sin, cos]` in that order
    (path-integral sampler, Zhang & Chen 2021; DIME appendix D).
    """

    phase: Float[Array, " width"]
    hidden: Dense
    output: Dense

    def __init__(self, width: int, key: Key[Array, ""]):
        hidden_key, output_key = jax.random.split(key)
        self.phase = jnp.zeros(width)
        self.hidden = Dense(2 * width, width, hidden_key)
        self.output = Dense(width, width, output_key)

    def __call__(self, step: Int[Array, "*steps"]) -> Float[Array, "*steps width"]:
        """Embeddings of step indices 0, 1, 2, ..., not scaled by the length of the chain."""
        frequencies = jnp.linspace(0.1, 100.0, self.phase.shape[-1], dtype=self.phase.dtype)
        angles = frequencies * step[..., None] + self.phase
        features = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        return self.output(gelu(self.hidden(features)))


def sinusoidal_frequencies(count: int, last: int) -> tuple[float, ...]:
    """`10000^(-j / last)` for j = 0 .. count - 1."""
    return tuple(10_000.0 ** (-j / last) for j in range(count))


class SinusoidalFeatures(eqx.Module):
    """Sines and cosines of fixed frequencies, times `scale`; then Dense, Mish, Dense."""

    mlp: Mlp
    frequencies: tuple[float, ...] = eqx.field(static=True)
    scale: float = eqx.field(static=True)

    def __init__(
        self,
        frequencies: tuple[float, ...],
        sizes: tuple[int, int],
        key: Key[Array, ""],
        start: Start = lecun,
        scale: float = 1.0,
    ):
        self.mlp = Mlp((2 * len(frequencies), *sizes), mish, key, start)
        self.frequencies = frequencies
        self.scale = scale

    def __call__(self, time: Num[Array, "*times"]) -> Float[Array, "*times features"]:
        """Features of integer steps or of real times."""
        angles = time[..., None] * jnp.asarray(self.frequencies, self.mlp.layers[0].kernel.dtype)
        features = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        return self.mlp(self.scale * features)


class LearntFourierFeatures(eqx.Module):
    """Cosines, then sines, of learnt frequencies; then Dense, Mish, Dense."""

    frequencies: Float[Array, " half"]
    mlp: Mlp

    def __init__(
        self, width: int, sizes: tuple[int, int], key: Key[Array, ""], start: Start = lecun
    ):
        frequency_key, mlp_key = jax.random.split(key)
        self.frequencies = 0.2 * jax.random.normal(frequency_key, (width // 2,))
        self.mlp = Mlp((width, *sizes), mish, mlp_key, start)

    def __call__(self, time: Num[Array, "*times"]) -> Float[Array, "*times features"]:
        """Features of integer steps or of real times."""
        angles = 2.0 * jnp.pi * time[..., None] * self.frequencies
        return self.mlp(jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1))


MakeFeatures = Callable[[Key[Array, ""]], SinusoidalFeatures | LearntFourierFeatures]
