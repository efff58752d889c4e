"""An algorithm that compiles in a second and whose numbers show what it was given."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dime.algorithms.algorithm import Algorithm
from dime.types import Agent


@dataclass(frozen=True)
class ToyConfig:
    """What the toy depends on."""

    step_size: float = 0.01
    """How far an update goes."""


def toy(config, spec):
    """A linear policy with noise, moved by its batches and keys."""

    def init(key):
        return {"weight": jax.random.normal(key, (spec.obs_dim, spec.action_dim))}

    def update(state, batch, key, counters):
        noise_key, told_key = jax.random.split(key)
        rows = batch.transition
        towards = rows.obs.T @ (rows.action * rows.reward[:, None]) / len(rows.reward)
        noise = jax.random.normal(noise_key, towards.shape)
        weight = state["weight"] + config.step_size * (jnp.tanh(towards) + noise)
        metrics = {
            "index": batch.index.astype(jnp.float32),
            "key": jax.random.uniform(told_key, ()),
            "env_step_seen": counters.env_step.astype(jnp.float32),
            "update_seen": counters.update.astype(jnp.float32),
            "weight": weight.mean(),
        }
        return {"weight": weight}, metrics

    def noisy(state, obs, key, counters):
        noise = jax.random.uniform(key, (*obs.shape[:-1], spec.action_dim), minval=-0.5, maxval=0.5)
        return 0.5 * jnp.tanh(obs @ state["weight"]) + noise

    def quiet(state, obs, key, counters):
        return jnp.tanh(obs @ state["weight"])

    act = {"explore": noisy, "stochastic": noisy, "deterministic": quiet, "best_of_n": noisy}
    return Agent(init=init, act=act, update=update)


NAME = "tests.training.toy:TOY"
TOY = Algorithm(
    name="toy",
    paper="",
    year=2026,
    policy="",
    critic="",
    make=functools.cache(toy),  # the same agent for the same sizes: they share programs
    config=ToyConfig,
    modes=("stochastic", "deterministic", "best_of_n"),
)
