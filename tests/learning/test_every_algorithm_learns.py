"""Every listed algorithm finds the best action of each state in a one-step problem."""

import functools

import jax
import jax.numpy as jnp
import pytest

from dime.algorithms.registry import ALGORITHMS
from dime.training.config import replace_nested
from dime.types import Batch, Counters, EnvSpec, Transition
from tests.algorithms.small import small

pytestmark = pytest.mark.usefixtures("optimised")

ROWS, BATCH, UPDATES = 512, 64, 1500
FAST = {
    "policy": {"learning_rate": 2e-3, "hidden_dim": 32},
    "critic": {"learning_rate": 2e-3, "hidden_dim": 32},
}
SLOW_POLICY = {"policy": {"learning_rate": 3e-4}, "num_action_candidates": 16}
LONG = {"policy": {"num_denoising_steps": 8}}
COOL = {"temperature": {"initial": 0.1}, "policy_delay": 1}
OWN = {
    "dime": LONG | COOL,
    "dime-gaussian": COOL,
    "dime-gb": LONG | COOL,
    # Q = -10 (a - best)^2 bends by 20: M times 20 is 6 here, where 50 times 20 would overshoot.
    "qsm": {"policy": {"num_denoising_steps": 20}, "alignment": 0.3},
    "dacer": LONG | {"noise": {"std_per_scale": 0.03}, "policy_delay": 1, "reward_scale": 1.0},
    "dipo": LONG,
    "qvpo": LONG | {"num_training_candidates": 16, "num_action_candidates": 16},
    # No gradient comes back from where an action is clipped: fast ones stay there.
    "diffusion-ql": SLOW_POLICY,
    "consistency-ac": SLOW_POLICY,
    "bro": {"reset_env_steps": []},
    "bro-fast": {"reset_env_steps": []},
}


def best(obs):
    return 0.6 * jnp.tanh(2.0 * obs)


@functools.cache
def replay():
    keys = jax.random.split(jax.random.key(5), 2)
    obs = jax.random.normal(keys[0], (ROWS, 1))
    action = jax.random.uniform(keys[1], (ROWS, 1), minval=-1.0)
    reward = -10.0 * ((action - best(obs)) ** 2)[:, 0]
    return Transition(obs, action, reward, obs, jnp.ones(ROWS, bool))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_best_action_is_found(name):
    algorithm = ALGORITHMS[name]
    settings = replace_nested(small(algorithm.config()), FAST)
    settings = replace_nested(settings, OWN.get(name, {}))
    agent, transitions = algorithm.make(settings, EnvSpec(1, 1, ROWS)), replay()

    def one(state, number):
        draw_key, key = jax.random.split(jax.random.fold_in(jax.random.key(1), number))
        index = jax.random.randint(draw_key, (BATCH * agent.batches_per_update,), 0, ROWS)
        batch = Batch(jax.tree.map(lambda rows: rows[index], transitions), index)
        return agent.update(state, batch, key, Counters(jnp.int32(ROWS), number))

    state = agent.init(jax.random.key(0))
    trained, _ = jax.jit(lambda state: jax.lax.scan(one, state, jnp.arange(UPDATES)))(state)
    obs = jnp.linspace(-1.0, 1.0, 200)[:, None]
    at = Counters(jnp.int32(ROWS), jnp.int32(UPDATES))
    action = jax.jit(agent.act[algorithm.official_mode])(trained, obs, jax.random.key(3), at)
    error = float(jnp.sqrt(((action - best(obs)) ** 2).mean()))
    assert float(best(obs).std()) > 0.38  # the error of the best policy that ignores the state
    assert error < 0.2
