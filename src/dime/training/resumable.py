"""Whether a checkpoint can be continued from, asked before anything of the run is changed."""

from collections.abc import Callable
from functools import partial

import jax

from dime.envs.spaces import Spaces
from dime.errors import require
from dime.training.checkpoint import Checkpoint, from_arrays
from dime.training.config import TrainingConfig
from dime.training.programs import initialise, seed_keys
from dime.types import Agent, EnvSpec


def refuse_if_other(
    checkpoint: Checkpoint,
    make_agent: Callable[[EnvSpec], Agent],
    spaces: Spaces,
    config: TrainingConfig,
) -> None:
    """Raises `DimeError` where a checkpoint is not of this environment, algorithm or config."""
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
    agent = make_agent(EnvSpec(spaces.obs_dim, spaces.action_dim, replay_capacity))
    keys = seed_keys(tuple(seeds))
    from_arrays(checkpoint.state, jax.eval_shape(partial(initialise, agent), keys))
