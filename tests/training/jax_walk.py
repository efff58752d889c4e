"""A small task that JAX computes: the walk of `walk.py`, in pure functions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dime.envs.jax_env import JaxEnv

EPISODE_STEPS = 7


class State(NamedTuple):
    """Position (observed) and velocity; the walk's own noise comes from `rng`."""

    obs: Any
    velocity: Any
    reward: Any
    done: Any
    rng: Any


class JaxWalk:
    """A point with momentum; terminates outside of [-1, 1].

    Where the first coordinate comes above `nan_above`, the part `broken` of the state is NaN.
    """

    action_size = 2

    def __init__(self, nan_above=float("inf"), broken="obs"):
        self.nan_above, self.broken = nan_above, broken

    def reset(self, rng):
        rng, first, second = jax.random.split(rng, 3)
        position = 0.3 * jax.random.normal(first, (2,))
        zero = jnp.zeros(())
        return State(position, 0.1 * jax.random.normal(second, (2,)), zero, zero, rng)

    def step(self, state, action):
        rng, noise = jax.random.split(state.rng)
        velocity = 0.8 * state.velocity + 0.3 * action + 0.05 * jax.random.normal(noise, (2,))
        position = state.obs + velocity
        done = (jnp.abs(position).max() > 1.0).astype(jnp.float32)
        after = State(position, velocity, 1.0 - position @ position, done, rng)
        part = getattr(after, self.broken)
        nan = jnp.where(position[0] > self.nan_above, jnp.nan, part)
        return after._replace(**{self.broken: nan})


TASK = JaxWalk()


def jax_walk():
    """A new environment; all of them share their task, and so its programs."""
    return JaxEnv(TASK, EPISODE_STEPS)
