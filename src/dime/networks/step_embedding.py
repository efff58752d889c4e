"""What a network is told of the denoising step it is at."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dime.networks.activations import gelu
from dime.networks.dense import Dense


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
