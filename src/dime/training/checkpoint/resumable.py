"""Whether a checkpoint can be continued from, asked before anything of the run is changed."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from dime.envs.environment import Environment
from dime.envs.jax_env import JaxEnv
from dime.envs.spaces import Spaces
from dime.errors import require
from dime.training.checkpoint.checkpoint import Checkpoint, from_arrays
from dime.training.config import TrainingConfig
from dime.training.device.programs import first_episodes
from dime.training.host.programs import initialise, seed_keys
from dime.types import Agent, EnvSpec


def refuse_if_other(
    checkpoint: Checkpoint,
    make_agent: Callable[[EnvSpec], Agent],
    environment: Environment,
    config: TrainingConfig,
) -> None:
    """Raises `DimeError` where a checkpoint is not of this environment, algorithm or config."""
    spaces = environment.spaces
    replay_capacity, seeds = config.replay_capacity, checkpoint.run["seeds"]
    require(
        seeds == [seed for seed in config.seeds if seed in seeds],
        f"{checkpoint.path} has the seeds {seeds}, which are not among those of config.json in "
        f"that order: {list(config.seeds)}.",
    )
    spaces.refuse_if_other(Spaces.from_json(checkpoint.run["spaces"]), str(checkpoint.path))
    first = min((start for _, start in checkpoint.replay_files), default=0)
    needed = max(0, checkpoint.env_step - replay_capacity)
    require(
        first <= needed,
        f"{checkpoint.path} holds transitions from number {first} on, but a replay_capacity of "
        f"{replay_capacity} needs them from {needed} on. Set replay_capacity back in config.json.",
    )
    spec = EnvSpec(spaces.obs_dim, spaces.action_dim, replay_capacity)
    agent = make_agent(spec)
    keys = seed_keys(tuple(seeds))
    from_arrays(checkpoint.state, jax.eval_shape(partial(initialise, agent), keys))
    env = environment.env
    was, now = checkpoint.run.get("on_device", False), isinstance(env, JaxEnv)
    places = {True: "in one program with the learner", False: "outside of the learner's program"}
    require(
        was == now,
        f"{checkpoint.path} is of a run whose environments were stepped {places[was]}; now they "
        f"would be {places[now]}. Resume it with the environment and the env_process that it had.",
    )
    if isinstance(env, JaxEnv):
        episodes = jax.eval_shape(partial(first_episodes, env.task, config.envs_per_seed), keys)
        actions = jnp.zeros((len(seeds), config.envs_per_seed, spec.action_dim))
        from_arrays(checkpoint.episodes, (episodes, actions), "environment")
