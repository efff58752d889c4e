"""A new algorithm is one file: here Q-learning whose policy is the best of some random actions."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

import dime
from dime.critics.critics import TargetCriticConfig
from dime.critics.heads import ScalarHead, SoftBackup, smallest
from dime.types import Agent
from dime.updates.action_modes import best_of


@dataclass(frozen=True)
class ShootingConfig:
    """Settings; each field becomes an option of the command line."""

    critic: TargetCriticConfig = field(default_factory=TargetCriticConfig)
    num_candidates: int = 16
    discount: float = 0.99


def shooting(config, spec):
    """Three pure functions over one state, here just the critics."""
    critics = config.critic.make(spec, ScalarHead(smallest), jax.nn.relu)

    def update(state, batch, key, counters):
        rows = batch.transition
        next_action, backup = act(state, rows.next_obs, key), SoftBackup.of(rows, config.discount)
        state, metrics = critics.step(state, rows, next_action, backup)
        return critics.follow(state), metrics

    def act(state, obs, key, counters=None):
        shape = (config.num_candidates, *obs.shape[:-1], spec.action_dim)
        actions = jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
        return best_of(actions, critics.value(state, obs, actions))

    def explore(state, obs, key, counters):
        act_key, coin_key, random_key = jax.random.split(key, 3)
        action = act(state, obs, act_key)
        other = jax.random.uniform(random_key, action.shape, minval=-1.0, maxval=1.0)
        coins = jax.random.bernoulli(coin_key, 0.1, action.shape[:-1])
        return jnp.where(coins[..., None], other, action)

    return Agent(critics.start, {"explore": explore, "best_of_n": act}, update)


SOURCE = ("shooting", "an example", 2026, "best of random actions", "scalar x2, target networks")
SHOOTING = dime.Algorithm(*SOURCE, shooting, ShootingConfig, modes=("best_of_n",))

if __name__ == "__main__":
    run = dime.train("dime/MultiGoal-v0", "new_algorithm:SHOOTING", "laptop", num_env_steps=1_500)
    print("returns:", dime.evaluate(run.run_dir)[0]["returns"])
