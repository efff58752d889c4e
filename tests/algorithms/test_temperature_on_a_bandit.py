"""SAC and CrossQ: the temperature drives the entropy to its target on a bandit."""

import jax
import jax.numpy as jnp
import pytest

from dime.algorithms.crossq import CrossQConfig, CrossQPolicyConfig, crossq
from dime.algorithms.sac import SacConfig, sac
from dime.critics.critics import CrossQCriticConfig, TargetCriticConfig
from dime.policies.tanh_gaussian import GaussianPolicyConfig
from dime.types import Batch, Counters, EnvSpec, Transition
from dime.updates.max_entropy import EntropyTemperatureConfig

ROWS = 64
BEST = 0.3
TEMPERATURE = EntropyTemperatureConfig(initial=0.5, learning_rate=5e-3)
AGENTS = {
    "sac": sac(
        SacConfig(
            policy=GaussianPolicyConfig(hidden_dim=32, learning_rate=2e-3),
            critic=TargetCriticConfig(hidden_dim=32, learning_rate=2e-3),
            temperature=TEMPERATURE,
        ),
        EnvSpec(1, 1),
    ),
    "crossq": crossq(
        CrossQConfig(
            policy=CrossQPolicyConfig(hidden_dim=32, num_hidden_layers=2, learning_rate=2e-3),
            critic=CrossQCriticConfig(hidden_dim=32, learning_rate=2e-3),
            temperature=TEMPERATURE,
            policy_delay=1,
        ),
        EnvSpec(1, 1),
    ),
}


def bandit(key):
    """Uniform actions on a bandit whose reward is -10 (action - 0.3)^2."""
    obs_key, action_key = jax.random.split(key)
    obs = jax.random.normal(obs_key, (ROWS, 1))
    action = jax.random.uniform(action_key, (ROWS, 1), minval=-1.0, maxval=1.0)
    reward = -10.0 * ((action - BEST) ** 2)[:, 0]
    transition = Transition(obs, action, reward, obs, jnp.ones(ROWS, bool))
    return Batch(transition, jnp.arange(ROWS))


@pytest.mark.parametrize("name", AGENTS)
def test_the_entropy_reaches_its_target(name):
    agent = AGENTS[name]

    def one(state, number):
        batch_key, update_key = jax.random.split(jax.random.fold_in(jax.random.key(1), number))
        state, metrics = agent.update(
            state, bandit(batch_key), update_key, Counters(number, number)
        )
        return state, metrics

    @jax.jit
    def train(state):
        return jax.lax.scan(one, state, jnp.arange(2500))

    state, metrics = train(agent.init(jax.random.key(0)))
    entropy = float(metrics["entropy_per_dim"][-300:].mean())
    assert entropy == pytest.approx(-1.0, abs=0.1)
    assert float(metrics["entropy_per_dim"][:20].mean()) > -0.5  # it was not there at the start
    obs, now = jax.random.normal(jax.random.key(3), (256, 1)), Counters(jnp.int32(0), jnp.int32(0))
    action = agent.act["deterministic"](state, obs, jax.random.key(2), now)
    assert float(action.mean()) == pytest.approx(BEST, abs=0.1)
