"""BRO: its losses by hand, who explores, and that everything begins again."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.algorithms.bro.bro import BroConfig, BroCriticConfig, BroFastConfig, bro
from dime.algorithms.bro.explorer import BroNetConfig, BroPolicy, OptimismConfig
from dime.critics.critics import critic_outputs
from dime.critics.heads import QuantileHead
from dime.updates.max_entropy import EntropyTemperatureConfig
from tests.algorithms.pieces import SPEC, assert_trees_close, batch, counters, same, split

CONFIG = BroConfig(
    policy=BroNetConfig(hidden_dim=8, learning_rate=1e-2),
    critic=BroCriticConfig(hidden_dim=8, num_blocks=1, num_quantiles=5, learning_rate=1e-2),
    optimism=OptimismConfig(hidden_dim=8, learning_rate=1e-2),
    temperature=EntropyTemperatureConfig(
        initial=0.5, learning_rate=1e-2, target_entropy_per_dim=-0.5, adam_b1=0.5
    ),
    reset_env_steps=(50,),
)
AGENT, HEAD = bro(CONFIG, SPEC), QuantileHead(5)
INIT, UPDATE, DISTRIBUTION = (
    jax.jit(AGENT.init),
    jax.jit(AGENT.update),
    jax.jit(BroPolicy.distribution),
)
TRANSITION = batch().transition


@functools.cache
def history():
    """The states and metrics of three updates, the last of them at the step of the reset."""
    states, told = [INIT(jax.random.key(0))], []
    for number, env_step in enumerate((48, 49, 50)):
        at = counters(env_step, number)
        state, metrics = UPDATE(states[-1], batch(), jax.random.key(number), at)
        states.append(state)
        told.append(metrics)
    return states, told


def second_update():
    """The states before and after, the metrics, the keys of critics and policy."""
    states, told = history()
    return states[1].current, states[2].current, told[1], split(1, 3)


def test_critics_learn_from_the_mean_of_the_copies_quantiles_less_the_entropys_cost():
    before, after, metrics, keys = second_update()
    following = DISTRIBUTION(before.policy.module, TRANSITION.next_obs).sample(keys[0])
    cost = before.temperature.value * following.log_prob
    outputs = critic_outputs(before.critics.slow, TRANSITION.next_obs, following.action)
    mean = np.asarray(outputs).mean(axis=0)
    alive = 1.0 - np.asarray(TRANSITION.terminated)
    target = np.asarray(TRANSITION.reward)[:, None]
    target = target + 0.99 * alive[:, None] * (mean - np.asarray(cost)[:, None])
    now = critic_outputs(before.critics.online, TRANSITION.obs, TRANSITION.action)
    expected, _ = HEAD.loss(now, jnp.asarray(target))
    assert float(metrics["critic_loss"]) == pytest.approx(float(expected), rel=1e-3)
    slow = jax.tree.map(
        lambda s, o: 0.995 * s + 0.005 * o, before.critics.slow, after.critics.online
    )
    assert_trees_close(after.critics.slow, slow)


def test_the_policy_follows_the_mean_of_the_critics_just_updated():
    before, after, metrics, keys = second_update()
    sample = DISTRIBUTION(before.policy.module, TRANSITION.obs).sample(keys[1])
    value = critic_outputs(after.critics.online, TRANSITION.obs, sample.action).mean(axis=(0, 2))
    expected = (before.temperature.value * sample.log_prob - value).mean()
    assert float(metrics["policy_loss"]) == pytest.approx(float(expected), rel=1e-3)
    entropy = -float(sample.log_prob.mean()) / 2
    assert float(metrics["entropy_per_dim"]) == pytest.approx(entropy, rel=1e-3)


def test_the_temperature_drives_the_entropy_to_minus_a_half_per_dimension():
    states, told = history()
    first, second = (state.current.temperature for state in states[:2])
    above = 2 * (float(told[0]["entropy_per_dim"]) + 0.5)  # nats for both dimensions
    # The temperature itself stands before it, and Adam's moment is half of the first gradient.
    assert float(second.optimizer[0].mu) == pytest.approx(0.5 * 0.5 * above, rel=1e-3)
    assert float(second.log_value - first.log_value) == pytest.approx(
        -0.01 * np.sign(above), rel=1e-3
    )
    assert float(told[0]["temperature"]) == pytest.approx(0.5)


def test_the_explorer_learns_beside_the_policy_just_updated():
    before, after, metrics, _ = second_update()
    law = DISTRIBUTION(after.policy.module, TRANSITION.obs)
    shift = np.asarray(before.explorer.shift(TRANSITION.obs, law.mean))
    divergence = (shift**2 / (2.0 * np.exp(2.0 * np.asarray(law.log_std)))).mean()
    assert float(metrics["exploration_divergence_per_dim"]) == pytest.approx(divergence, rel=1e-2)
    assert not same(after.explorer.shift, before.explorer.shift)


def test_the_explorer_explores_and_the_policy_is_evaluated():
    state, obs = history()[0][2], TRANSITION.obs
    law = DISTRIBUTION(state.current.policy.module, obs)
    explores = state.current.explorer.distribution(obs, law)
    for mode, expected in {
        "explore": explores.sample(jax.random.key(4)).action,
        "stochastic": law.sample(jax.random.key(4)).action,
        "deterministic": jnp.tanh(law.mean),
    }.items():
        action = jax.jit(AGENT.act[mode])(state, obs, jax.random.key(4), counters())
        np.testing.assert_allclose(action, expected, rtol=1e-3, atol=1e-5, err_msg=mode)


def test_at_a_reset_everything_is_as_after_the_first_update():
    """Networks, copies, optimisers and the three weights."""
    states, _ = history()
    alone, _ = UPDATE(states[0], batch(), jax.random.key(2), counters(1, 0))
    assert same(states[3].current, alone.current)
    assert not same(states[2].current.policy, states[3].current.policy)
    counts = [leaf for leaf in jax.tree.leaves(states[3].current) if leaf.dtype == jnp.int32]
    assert len(counts) >= 4
    assert all(int(count) == 1 for count in counts)


def test_the_resets_are_those_of_the_released_code():
    steps = (15_001, 50_001, 250_001, 500_001, 750_001, 1_000_001, 1_500_001, 2_000_001)
    assert BroConfig().reset_env_steps == steps
    assert BroFastConfig().reset_env_steps == (15_001,)
