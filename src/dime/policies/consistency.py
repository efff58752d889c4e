"""Consistency models (Song et al. 2023) as policies: any noise level to the data in one step."""

from collections.abc import Callable
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dime.networks.chain_networks import Denoiser

DATA_STD = 0.5
MIN_TIME, MAX_TIME = 0.002, 80.0
_LAST_SAMPLING_TIME = 2.0  # of the released code, where the text has the smallest time
_RHO = 7.0

Map: TypeAlias = Callable[[Array, Array], Array]
"""(noisy action, index of the time) to the clean action."""


def consistency_map(
    output: Float[Array, "*batch act"],
    noisy: Float[Array, "*batch act"],
    time: Float[Array, "*times"],
) -> Float[Array, "*batch act"]:
    """The clean action that a network's output stands for; `noisy` itself at the smallest time.

    Song et al. 2023, eq. 5 with EDM's weights; the network's input is not scaled.
    """
    past = time - MIN_TIME
    skip = DATA_STD**2 / (past**2 + DATA_STD**2)
    scale = DATA_STD * past / jnp.sqrt(time**2 + DATA_STD**2)
    return skip[..., None] * noisy + scale[..., None] * output


def sampling_times(num_steps: int) -> Float[Array, " steps"]:
    """Times of the sampler, in its order: 80 down to 2.

    >>> [float(time) for time in sampling_times(5)]
    [80.0, 60.5, 41.0, 21.5, 2.0]
    """
    return jnp.linspace(MAX_TIME, _LAST_SAMPLING_TIME, num_steps)


def sample_consistency(
    to_clean: Map,
    times: Float[Array, " steps"],
    start: Float[Array, "*batch act"],
    key: Key[Array, ""] | None,
) -> Float[Array, "*batch act"]:
    """The action after denoising and noising again at each time, in [-1, 1].

    Song et al. 2023, algorithm 1, clipped once at the end. `start` is noise of the first time's
    scale; without a key nothing is noised again.
    """
    action = to_clean(start, jnp.zeros((), jnp.int32))

    def one(action, index):
        if key is not None:
            std = jnp.sqrt(times[index] ** 2 - MIN_TIME**2)
            noise = jax.random.normal(jax.random.fold_in(key, index), action.shape)
            action = action + std * noise
        return to_clean(action, index), None

    action, _ = jax.lax.scan(one, action, jnp.arange(1, times.shape[0]))
    return jnp.clip(action, -1.0, 1.0)


def training_time(index: Int[Array, "*batch"], num_levels: int) -> Float[Array, "*batch"]:
    """The time of a noise level, 0 .. num_levels - 1, from 0.002 to 80 (Karras et al. 2022)."""
    low, high = MIN_TIME ** (1.0 / _RHO), MAX_TIME ** (1.0 / _RHO)
    return (low + index / (num_levels - 1) * (high - low)) ** _RHO


class ConsistencyPolicy(eqx.Module):
    """An action from `num_denoising_steps` evaluations of a consistency model."""

    denoiser: Denoiser
    num_denoising_steps: int = eqx.field(static=True)
    num_noise_levels: int = eqx.field(static=True)

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
