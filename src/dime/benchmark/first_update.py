"""Makes the first update of a run and ends: `python -m dime.benchmark.first_update ENV`."""

import sys
from functools import partial

from dime.algorithms.dime import dime
from dime.envs.registry import make
from dime.training.config import TrainingConfig
from dime.training.host.learners import HostLearners
from dime.training.machine import keep_compiled_programs
from dime.training.presets import preset_settings
from dime.types import EnvSpec


def main(env: str) -> None:
    """Begins a run with the paper's sizes and takes env steps up to the first update."""
    keep_compiled_programs()
    config = TrainingConfig(num_env_steps=1_000, num_random_steps=1)
    made = partial(make, env)
    environment = made()
    spec = EnvSpec(environment.obs_dim, environment.action_dim, config.replay_capacity)
    agent = dime(preset_settings("paper", "dime", env), spec)
    learners = HostLearners(config, agent, {0: environment}, made)
    learners.compile()
    learners.begin()
    while learners.update == 0:
        learners.step()


if __name__ == "__main__":
    main(sys.argv[1])
