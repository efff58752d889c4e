"""Policies that denoise an action step by step: DACER, QSM, DIPO, QVPO and Diffusion-QL.

They have no density; what their networks learn is left to the algorithms.
"""

from collections.abc import Callable
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from dime.diffusion.ddpm import Noise, denoise, noised, posterior_step, variance_preserving_betas
from dime.errors import Count
from dime.networks.chain_networks import Denoiser
from dime.optimizers import NetworkConfig


@dataclass(frozen=True, kw_only=True)
class DdpmPolicyConfig(NetworkConfig):
    """The denoising chain, its network and its optimiser."""

    num_denoising_steps: Count
    """Length of the chain, at least 1."""
    num_hidden_layers: Count = 3
    """Number of hidden layers."""


class DdpmPolicy(eqx.Module):
    """An action from a chain of `num_denoising_steps` steps that begins at N(0, I).

    `betas_of` gives the noise schedule of a length, `reverse_step` is one step of the sampler.
    """

    denoiser: Denoiser
    num_denoising_steps: int = eqx.field(static=True)
    betas_of: Callable[[int], np.ndarray] = eqx.field(
        static=True, default=variance_preserving_betas
    )
    reverse_step: Callable[..., Array] = eqx.field(static=True, default=posterior_step)

    def sample(
        self, obs: Float[Array, "*batch obs"], key: Key[Array, ""], num: int | None = None
    ) -> Float[Array, "*draws act"]:
        """One action per observation, or `num` of them along a new first axis.

        Gradients run through the whole chain.
        """
        start_key, noise_key = jax.random.split(key)
        return self._denoise(obs, jax.random.normal(start_key, self._shape(obs, num)), noise_key)

    def noise_free(
        self, obs: Float[Array, "*batch obs"], key: Key[Array, ""]
    ) -> Float[Array, "*batch act"]:
        """An action from a random start, with no noise after it (DIPO's evaluation)."""
        return self._denoise(obs, jax.random.normal(key, self._shape(obs, None)), None)

    def deterministic(self, obs: Float[Array, "*batch obs"]) -> Float[Array, "*batch act"]:
        """The action of the noiseless chain from 0."""
        return self._denoise(obs, jnp.zeros(self._shape(obs, None)), None)

    def observation_seeded(self, obs: Float[Array, "*batch obs"]) -> Float[Array, "*batch act"]:
        """A draw whose random numbers the observation alone decides (DACER's evaluation).

        They come from its bits, summed as integers: a sum of floats may round differently where
        the batch holds other observations (the released code takes mean and standard deviation).
        """
        rows = obs.reshape(-1, obs.shape[-1])
        odd = 2 * jnp.arange(obs.shape[-1], dtype=jnp.uint32) + 1
        bits = jax.lax.bitcast_convert_type(rows, jnp.uint32)
        mark = (bits * (odd * jnp.uint32(2654435761))).sum(axis=-1, dtype=jnp.uint32)
        actions = jax.vmap(lambda row, bits: self.sample(row, jax.random.key(bits)))(rows, mark)
        return actions.reshape(*obs.shape[:-1], -1)

    def _shape(self, obs: Array, num: int | None) -> tuple[int, ...]:
        shape = (*obs.shape[:-1], self.denoiser.action_dim)
        return shape if num is None else (num, *shape)

    def _denoise(self, obs: Array, start: Array, key: Key[Array, ""] | None) -> Array:
        predict = self.denoiser.bind(obs, jnp.arange(self.num_denoising_steps))
        betas = self.betas_of(self.num_denoising_steps)
        return denoise(predict, self.reverse_step, betas, start, key)

    def noise(
        self, action: Float[Array, "*batch act"], key: Key[Array, ""]
    ) -> tuple[Float[Array, "*batch act"], Float[Array, "*batch act"], Int[Array, "*batch"]]:
        """The actions at a random step of each row: noisy actions, the noise, the steps."""
        step_key, noise_key = jax.random.split(key)
        index = jax.random.randint(step_key, action.shape[:-1], 0, self.num_denoising_steps)
        noise = jax.random.normal(noise_key, action.shape)
        schedule = Noise.of(self.betas_of(self.num_denoising_steps))
        return noised(action, noise, schedule, index), noise, index

    def noise_errors(
        self,
        obs: Float[Array, "*batch obs"],
        action: Float[Array, "*batch act"],
        key: Key[Array, ""],
    ) -> Float[Array, "*batch act"]:
        """Squared errors of the noise predicted at a random step of each row."""
        noisy, noise, index = self.noise(action, key)
        return (self.denoiser(noisy, obs, index) - noise) ** 2

    def behaviour_loss(
        self,
        slow: "DdpmPolicy",
        obs: Float[Array, "batch obs"],
        action: Float[Array, "batch act"],
        key: Key[Array, ""],
    ) -> Float[Array, ""]:
        """The mean of `noise_errors`; no slow copy is needed (a consistency model needs one)."""
        return self.noise_errors(obs, action, key).mean()
