"""What the networks of the compared algorithms are told of the time in their chain."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Num

from dime.networks.activations import mish
from dime.networks.initializers import Start, lecun
from dime.networks.mlp import Mlp


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
