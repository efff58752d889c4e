"""SAC against SBX, whose tanh-Gaussian, critics and temperature are these."""

import jax
import jax.numpy as jnp
import pytest

from dime.algorithms.registry import ALGORITHMS
from dime.algorithms.sac import SacConfig
from dime.critics.critics import TargetCriticConfig, critic_outputs
from dime.policies.tanh_gaussian import GaussianPolicyConfig
from dime.types import Counters
from dime.updates.max_entropy import log_temperature_loss

from .golden import (
    Training,
    assert_forward,
    assert_recorded,
    assert_same_change,
    assert_trees_close,
    compiled,
    every_array_is_read,
    fill,
    first_gradient,
    joined,
    layers_of,
    spec_of,
    updates_of,
    zero_state,
)

pytestmark = pytest.mark.promise("R15")
COUNTERS = Counters(jnp.int32(1), jnp.int32(0))


def config_of(golden):
    policy = layers_of(golden, "init/actor/params/Dense_")
    critic = layers_of(golden, "init/critic/params/VmapContinuousCritic_0/Dense_")
    return SacConfig(
        policy=GaussianPolicyConfig(
            hidden_dim=policy[0][1].shape[-1], num_hidden_layers=len(policy) - 2
        ),
        critic=TargetCriticConfig(
            hidden_dim=critic[0][1].shape[-1],
            num_hidden_layers=len(critic) - 1,
            num_critics=critic[0][0].shape[0],
        ),
    )


def policy_of(golden, when, template):
    """The policy; its two heads make one layer here."""
    *hidden, mean, log_std = layers_of(golden, f"{when}/actor/params/Dense_")
    layers = (*hidden, joined(mean, log_std))
    return fill(template, [leaf for layer in layers for leaf in layer])


def critics_of(golden, when, template, name="critic"):
    layers = layers_of(golden, f"{when}/{name}/params/VmapContinuousCritic_0/Dense_")
    return fill(template, [leaf for layer in layers for leaf in layer])


@pytest.fixture(scope="module")
def agent(golden):
    return ALGORITHMS["sac"].make(config_of(golden), spec_of(golden))


@pytest.fixture(scope="module")
def start(golden, agent):
    state = zero_state(agent)
    critics = state.critics._replace(
        online=critics_of(golden, "init", state.critics.online),
        slow=critics_of(golden, "init", state.critics.slow, "target"),
    )
    log_temperature = golden["init/temperature/log_ent_coef"]
    return state._replace(
        policy=state.policy._replace(module=policy_of(golden, "init", state.policy.module)),
        critics=critics,
        temperature=state.temperature._replace(log_value=log_temperature),
    )


@pytest.fixture(scope="module")
def training(golden, agent, start):
    draws = lambda i: {"normal": [golden[f"noise{i}/next"], golden[f"noise{i}/policy"]]}  # noqa: E731
    return Training(agent, start, updates_of(golden, draws))


def test_forward(golden, agent, start):
    def forward(state, obs, action):
        law = state.policy.module.distribution(obs)
        key = jax.random.key(0)
        return {
            "mean": law.mean,
            "std": jnp.exp(law.log_std),
            "log_prob": law.sample(key).log_prob,
            "action": agent.act["explore"](state, obs, key, COUNTERS),
            "evaluate_action": agent.act["deterministic"](state, obs, key, COUNTERS),
            "q": critic_outputs(state.critics.online, obs, action),
            "q_target": critic_outputs(state.critics.slow, obs, action),
        }

    draws = {"normal": 2 * [golden["forward/noise"]]}
    arguments = start, golden["batch/obs"][0], golden["batch/action"][0]
    assert_forward(golden, compiled(forward)(draws, *arguments))


def test_losses(golden, training):
    for index, metrics in enumerate(training.metrics):
        target = spec_of(golden).action_dim  # a log density of 1 nat per dimension
        log_prob = -metrics["entropy_per_dim"] * target
        log_temperature = training.states[index].temperature.log_value
        for name, found in [
            ("critic_loss", metrics["critic_loss"]),
            ("actor_loss", metrics["policy_loss"]),
            ("ent_coef", metrics["temperature"]),
            ("ent_coef_loss", log_temperature_loss(log_temperature, log_prob, target)),
        ]:
            assert_recorded(golden, f"info{index}/{name}", found, 4e-6)


def test_first_gradients(golden, training):
    state = training.states[1]
    if "grad0/critic" in golden:
        critics = first_gradient(state.critics.optimizer)
        assert_trees_close(critics, critics_of(golden, "grad0", critics), 1e-5)
    if "grad0/actor" in golden:
        policy = first_gradient(state.policy.optimizer)
        assert_trees_close(policy, policy_of(golden, "grad0", policy), 1e-5)
    temperature = first_gradient(state.temperature.optimizer)
    assert_recorded(golden, "grad0/temperature/log_ent_coef", temperature, 1e-5)


def test_parameters_after_all_updates(golden, start, training):
    last, after = training.states[-1], f"after{len(training.metrics)}"
    if f"{after}/actor" in golden:
        expected = policy_of(golden, after, start.policy.module)
        assert_same_change(start.policy.module, last.policy.module, expected, what="policy")
    for found, before, name in [
        (last.critics.online, start.critics.online, "critic"),
        (last.critics.slow, start.critics.slow, "target"),
    ]:
        if f"{after}/{name}" in golden:
            expected = critics_of(golden, after, before, name)
            assert_same_change(before, found, expected, what=name)


def test_temperature_after_each_update(golden, training):
    for index, state in enumerate(training.states):
        name = f"after{index}/temperature/log_ent_coef"
        assert_recorded(golden, name, state.temperature.log_value, 1e-6)


test_every_array_is_read = every_array_is_read
