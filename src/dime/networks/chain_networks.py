"""The networks of denoising chains: DIME's control and the compared algorithms' denoiser."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn.initializers import constant
from jaxtyping import Array, Float, Int, Key, Num

from dime.networks.activations import gelu, mish
from dime.networks.embeddings import (
    LearntFourierFeatures,
    MakeFeatures,
    SinusoidalFeatures,
    StepEmbedding,
)
from dime.networks.initializers import Start, lecun, with_zero_bias
from dime.networks.layers import Dense, Mlp, dense_stack
from dime.types import EnvSpec

MAX_OUTPUT = 1e4


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
