"""Policies to export that nothing was trained for: every algorithm, its weights shaken."""

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dime.algorithms.registry import ALGORITHMS
from dime.deploy.policy import Policy, Restored
from dime.envs.spaces import Leaf, Spaces
from dime.training.checkpoint import Checkpoint
from dime.training.config import RunConfig, TrainingConfig
from dime.types import EnvSpec
from tests.algorithms.small import small

SPACES = Spaces(
    name="made",
    observation=(Leaf(("place",), (2,), "float64"), Leaf(("speed",), (), "float32")),
    action_shape=(2, 1),
    action_dtype="float64",
    action_low=(-0.37, -3.3),
    action_high=(1.234, 7.7),
)


@functools.cache
def _agent(name):
    config = small(ALGORITHMS[name].config())
    agent = ALGORITHMS[name].make(config, EnvSpec(SPACES.obs_dim, SPACES.action_dim, 64))
    generator = np.random.default_rng(1)

    def shaken(leaf):
        noise = 0.1 * generator.normal(size=leaf.shape)
        return leaf + noise.astype(np.float32) if leaf.dtype == jnp.float32 else leaf

    return config, agent, jax.tree.map(shaken, jax.jit(agent.init)(jax.random.key(0)))


def policy_of(name, mode, folder, noise_seed=0):
    """The policy of an algorithm in a mode; `folder` serves as its checkpoint's."""
    settings, agent, state = _agent(name)
    config = RunConfig(
        env="made",
        env_kwargs={},
        algorithm=name,
        preset="paper",
        training=TrainingConfig(num_random_steps=10),
        settings=settings,
    )
    run: Any = SimpleNamespace(env_step=100, updates=100)
    checkpoint = Checkpoint(Path(folder), {}, {}, run, [], [], "")
    stacked = jax.tree.map(lambda leaf: leaf[None], state)
    restored = Restored(config, agent, SPACES, [0], stacked, checkpoint)
    return Policy(restored, 0, mode, noise_seed)
