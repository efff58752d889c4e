"""The policy of Consistency-AC: a consistency model and its multistep sampler."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dime.diffusion.consistency import (
    MAX_TIME,
    consistency_map,
    sample_consistency,
    sampling_times,
    training_time,
)
from dime.networks.denoiser import Denoiser


class ConsistencyPolicy(eqx.Module):
    """An action from `num_denoising_steps` evaluations of a consistency model."""

    denoiser: Denoiser
    num_denoising_steps: int = eqx.field(static=True)
    num_noise_levels: int = eqx.field(static=True)

    def __init__(self, denoiser: Denoiser, num_denoising_steps: int, num_noise_levels: int):
        self.denoiser = denoiser
        self.num_denoising_steps = num_denoising_steps
        self.num_noise_levels = num_noise_levels

    def sample(
        self, obs: Float[Array, "*batch obs"], key: Key[Array, ""], num: int | None = None
    ) -> Float[Array, "*draws act"]:
        """One action per observation, or `num` of them along a new first axis."""
        start_key, noise_key = jax.random.split(key)
        shape = (*obs.shape[:-1], self.denoiser.action_dim)
        shape = shape if num is None else (num, *shape)
        return self._sample(obs, MAX_TIME * jax.random.normal(start_key, shape), noise_key)

    def deterministic(self, obs: Float[Array, "*batch obs"]) -> Float[Array, "*batch act"]:
        """The action from a start at 0, nothing noised again."""
        shape = (*obs.shape[:-1], self.denoiser.action_dim)
        return self._sample(obs, jnp.zeros(shape), None)

    def _sample(self, obs: Array, start: Array, key: Key[Array, ""] | None) -> Array:
        times = sampling_times(self.num_denoising_steps)
        output_of = self.denoiser.bind(obs, times)

        def to_clean(noisy, index):
            return consistency_map(output_of(noisy, index), noisy, times[index])

        return sample_consistency(to_clean, times, start, key)

    def behaviour_loss(
        self,
        slow: "ConsistencyPolicy",
        obs: Float[Array, "batch obs"],
        action: Float[Array, "batch act"],
        key: Key[Array, ""],
    ) -> Float[Array, ""]:
        """How far the map is from the slow copy's at the next lower noise level, for data.

        The same noise at both levels, weighted by 100 over the times' distance (released code).
        """
        level_key, noise_key = jax.random.split(key)
        level = jax.random.randint(level_key, action.shape[:-1], 0, self.num_noise_levels - 1)
        noise = jax.random.normal(noise_key, action.shape)

        def at(policy: ConsistencyPolicy, time):
            noisy = action + time[..., None] * noise
            return consistency_map(policy.denoiser(noisy, obs, time), noisy, time)

        low = training_time(level, self.num_noise_levels)
        high = training_time(level + 1, self.num_noise_levels)
        error = (at(self, high) - jax.lax.stop_gradient(at(slow, low))) ** 2
        return (100.0 / (high - low)[..., None] * error).mean()
