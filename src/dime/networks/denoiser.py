"""The network of the compared diffusion policies: what noise is in an action?"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num

from dime.networks.activations import mish
from dime.networks.initializers import Start, lecun
from dime.networks.mlp import Mlp
from dime.networks.time_features import LearntFourierFeatures, MakeFeatures, SinusoidalFeatures
from dime.types import EnvSpec


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
