"""The networks of denoising chains: DIME's control and the compared algorithms' denoiser."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn.initializers import constant
from jaxtyping import Array, Float, Int, Key, Num

from dime.networks.layers import Dense, Mlp, Start, dense_stack, gelu, lecun, mish, with_zero_bias
from dime.types import EnvSpec

MAX_OUTPUT = 1e4


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


class ControlNetwork(eqx.Module):
    """An MLP of `[latent, obs, embedding of the step]` with GELU (DIME appendix D).

    The last layer starts at 1e-8, so an untrained chain follows the uncontrolled process: its
    output is twice the policy's score minus twice the prior's. Outputs are clipped to +-1e4.
    """

    embedding: StepEmbedding
    hidden: tuple[Dense, ...]
    output: Dense
    action_dim: int = eqx.field(static=True)

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden_dim: int,
        num_hidden_layers: int,
        key: Key[Array, ""],
    ):
        embedding_key, hidden_key, output_key = jax.random.split(key, 3)
        self.embedding = StepEmbedding(hidden_dim, embedding_key)
        sizes = (action_dim + obs_dim + hidden_dim, *[hidden_dim] * num_hidden_layers)
        self.hidden = dense_stack(sizes, hidden_key)
        self.output = Dense(hidden_dim, action_dim, output_key, with_zero_bias(constant(1e-8)))
        self.action_dim = action_dim

    def bind(self, obs: Float[Array, "*batch obs"], num_steps: int) -> Callable[..., Array]:
        """The control for these observations: `(latent, step) -> drift`, steps below `num_steps`.

        The observation's share of the first layer does not change along the chain and the
        embedding's not over the batch: each is computed once here instead of at every step.
        """
        first, *rest = self.hidden
        boundaries = [self.action_dim, self.action_dim + obs.shape[-1]]
        latent_kernel, obs_kernel, embedding_kernel = jnp.split(first.kernel, boundaries)
        obs_share = obs @ obs_kernel
        step_share = self.embedding(jnp.arange(num_steps)) @ embedding_kernel + first.bias

        def control(latent: Float[Array, "*batch act"], step: Int[Array, ""]):
            x = gelu(latent @ latent_kernel + obs_share + step_share[step])
            for layer in rest:
                x = gelu(layer(x))
            return jnp.clip(self.output(x), -MAX_OUTPUT, MAX_OUTPUT)

        return control


class Denoiser(eqx.Module):
    """A perceptron of `[noisy action, obs, features of the time]` with Mish."""

    features: SinusoidalFeatures | LearntFourierFeatures
    mlp: Mlp
    action_dim: int = eqx.field(static=True)

    def __init__(
        self,
        spec: EnvSpec,
        hidden: tuple[int, ...],
        make_features: MakeFeatures,
        key: Key[Array, ""],
        start: Start = lecun,
    ):
        features_key, mlp_key = jax.random.split(key)
        self.features = make_features(features_key)
        width = self.features.mlp.layers[-1].bias.shape[-1]
        sizes = (spec.action_dim + spec.obs_dim + width, *hidden, spec.action_dim)
        self.mlp = Mlp(sizes, mish, mlp_key, start)
        self.action_dim = spec.action_dim

    def __call__(
        self,
        noisy: Float[Array, "*batch act"],
        obs: Float[Array, "*batch obs"],
        time: Num[Array, "*batch"],
    ) -> Float[Array, "*batch act"]:
        """The output at each row's own time."""
        return self.mlp(jnp.concatenate([noisy, obs, self.features(time)], axis=-1))

    def bind(
        self, obs: Float[Array, "*batch obs"], times: Num[Array, " times"]
    ) -> Callable[[Float[Array, "*draws act"], Int[Array, ""]], Float[Array, "*draws act"]]:
        """The network for these observations and times: `(noisy, index of the time) -> output`.

        The observation's and the times' shares of the first layer are computed once. `noisy` may
        lead with an axis of several draws for each observation.
        """
        first, *_ = self.mlp.layers
        boundaries = [self.action_dim, self.action_dim + obs.shape[-1]]
        noisy_kernel, obs_kernel, time_kernel = jnp.split(first.kernel, boundaries)
        obs_share = obs @ obs_kernel
        time_share = self.features(times) @ time_kernel + first.bias

        def predict(noisy, index):
            x = noisy @ noisy_kernel + obs_share + time_share[index]
            for layer in self.mlp.layers[1:]:
                x = layer(self.mlp.activation(x))
            return x

        return predict
