"""BRO: two actors, residual quantile critics, weight decay, and the weights of its exploration."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.algorithms.bro.bro import BroConfig, BroCriticConfig
from dime.algorithms.bro.explorer import BroNetConfig, OptimismConfig
from dime.algorithms.registry import ALGORITHMS
from dime.critics.critics import critic_outputs
from dime.types import Counters
from dime.updates.max_entropy import EntropyTemperatureConfig

from .golden import (
    Training,
    assert_close,
    assert_forward,
    assert_recorded,
    assert_same_change,
    assert_trees_close,
    compiled,
    every_array_is_read,
    fill,
    first_gradient,
    spec_of,
    stacked,
    updates_of,
    zero_state,
)

pytestmark = pytest.mark.promise("R15")
NOT_COMPARED = {"info*/actor_o_gnorm": "not measured here; the gradient is, in grad0/explorer"}
COUNTERS = Counters(jnp.int32(1), jnp.int32(0))


def num_blocks(golden, network):
    return sum(f"init/{network}/BroNet_0/LayerNorm_{i}" in golden for i in range(99)) // 2


def config_of(golden):
    def sizes(network):
        width = golden[f"init/{network}/BroNet_0/Dense_0/bias"].shape[0]
        return {"hidden_dim": width, "num_blocks": num_blocks(golden, network)}

    blocks = num_blocks(golden, "critic/Critic_0")
    quantiles = golden[f"init/critic/Critic_0/BroNet_0/Dense_{2 * blocks + 1}/bias"].shape[0]
    return BroConfig(
        policy=BroNetConfig(**sizes("actor")),
        optimism=OptimismConfig(**sizes("explorer")),
        critic=BroCriticConfig(num_quantiles=quantiles, **sizes("critic/Critic_0")),
        temperature=EntropyTemperatureConfig(target_entropy_per_dim=-0.5, adam_b1=0.5),
        reset_env_steps=(),
    )


def leaves_of(golden, prefix, num_blocks):
    """The trunk's leaves in our order: of each block first the dense layers, then the norms."""

    def dense(i):
        return [golden[f"{prefix}/BroNet_0/Dense_{i}/{name}"] for name in ("kernel", "bias")]

    def norm(i):
        return [golden[f"{prefix}/BroNet_0/LayerNorm_{i}/{name}"] for name in ("scale", "bias")]

    leaves = dense(0) + norm(0)
    for i in range(1, 2 * num_blocks, 2):
        leaves += dense(i) + dense(i + 1) + norm(i) + norm(i + 1)
    return leaves


def policy_of(golden, when, template):
    leaves = leaves_of(golden, f"{when}/actor", num_blocks(golden, "actor"))
    heads = [f"Dense_{i}/{name}" for i in range(2) for name in ("kernel", "bias")]
    return fill(template, leaves + [golden[f"{when}/actor/{name}"] for name in heads])


def shift_of(golden, when, template):
    leaves = leaves_of(golden, f"{when}/explorer", num_blocks(golden, "explorer"))
    return fill(template, [*leaves, golden[f"{when}/explorer/Dense_0/kernel"]])


def critics_of(golden, when, template, name="critic"):
    def critic(index):
        prefix, blocks = f"{when}/{name}/Critic_{index}", num_blocks(golden, "critic/Critic_0")
        last = f"{prefix}/BroNet_0/Dense_{2 * blocks + 1}/"
        leaves = leaves_of(golden, prefix, blocks)
        return [*leaves, golden[last + "kernel"], golden[last + "bias"]]

    return fill(template, stacked(critic(0), critic(1)))


def raw_weights_of(golden, when):
    names = ("raw_optimism", "raw_regularizer")
    return jnp.asarray(np.stack([golden[f"{when}/{name}/log_value"] for name in names]))


@pytest.fixture(scope="module")
def agent(golden):
    return ALGORITHMS["bro"].make(config_of(golden), spec_of(golden))


@pytest.fixture(scope="module")
def start(golden, agent):
    state = zero_state(agent)
    critics = state.critics._replace(
        online=critics_of(golden, "init", state.critics.online),
        slow=critics_of(golden, "init", state.critics.slow, "target"),
    )
    explorer = state.explorer._replace(
        shift=shift_of(golden, "init", state.explorer.shift),
        raw_weights=raw_weights_of(golden, "init"),
    )
    return state._replace(
        policy=state.policy._replace(module=policy_of(golden, "init", state.policy.module)),
        explorer=explorer,
        critics=critics,
        temperature=state.temperature._replace(log_value=golden["init/log_temp/log_temp"]),
    )


@pytest.fixture(scope="module")
def training(golden, agent, start):
    def draws(index):
        return {"normal": [golden[f"noise{index}/{of}"] for of in ("next", "policy", "explorer")]}

    return Training(agent, start, updates_of(golden, draws))


def test_forward(golden, agent, start):
    def forward(state, obs, action):
        key, law = jax.random.key(0), state.policy.module.distribution(obs)
        exploring = state.explorer.distribution(obs, law)
        q1, q2 = critic_outputs(state.critics.online, obs, action)
        return {
            "q1": q1,
            "q2": q2,
            "mean": law.mean,
            "std": jnp.exp(law.log_std),
            "explorer_mean": exploring.mean,
            "explorer_std": jnp.exp(exploring.log_std),
            "log_prob": law.sample(key).log_prob,
            "action": agent.act["stochastic"](state, obs, key, COUNTERS),
            "explore_action": agent.act["explore"](state, obs, key, COUNTERS),
            "evaluate_action": agent.act["deterministic"](state, obs, key, COUNTERS),
        }

    noise = golden["forward/noise"]
    draws = {"normal": [noise, noise, golden["forward/explore_noise"]]}
    arguments = start, golden["batch/obs"][0], golden["batch/action"][0]
    assert_forward(golden, compiled(forward)(draws, *arguments))


def test_losses_and_weights(golden, training):
    dims = spec_of(golden).action_dim
    for index, metrics in enumerate(training.metrics):
        for name, found in [
            ("critic_loss", metrics["critic_loss"]),
            ("actor_loss", metrics["policy_loss"]),
            ("entropy", metrics["entropy_per_dim"] * dims),
            ("actor_o_loss", metrics["exploration_loss"]),
            ("kl", metrics["exploration_divergence_per_dim"] * dims),
            ("optimism", metrics["optimism"]),
            ("kl_weight", metrics["divergence_weight"]),
            ("temperature", metrics["temperature"]),
            ("critic_gnorm", metrics["critic_gradient_norm"]),
            ("actor_gnorm", metrics["policy_gradient_norm"]),
        ]:
            assert_recorded(golden, f"info{index}/{name}", found, 4e-6)


def test_first_gradients(golden, training):
    state = training.states[1]
    for name, optimizer, of in [
        ("critic", state.critics.optimizer, critics_of),
        ("actor", state.policy.optimizer, policy_of),
        ("explorer", state.explorer.optimizer, shift_of),
    ]:
        if f"grad0/{name}" in golden:
            found = first_gradient(optimizer)
            assert_trees_close(found, of(golden, "grad0", found), 1e-5, name)
    temperature = first_gradient(state.temperature.optimizer, b1=0.5)
    assert_recorded(golden, "grad0/log_temp/log_temp", temperature, 1e-5)
    if "grad0/raw_optimism" in golden:
        weights = first_gradient(state.explorer.weight_optimizer, b1=0.5)
        assert_close(weights, raw_weights_of(golden, "grad0"), 1e-5, "weights")


def test_parameters_after_all_updates(golden, start, training):
    last, after = training.states[-1], f"after{len(training.metrics)}"
    for name, before, found, of in [
        ("actor", start.policy.module, last.policy.module, policy_of),
        ("explorer", start.explorer.shift, last.explorer.shift, shift_of),
        ("critic", start.critics.online, last.critics.online, critics_of),
        ("target", start.critics.slow, last.critics.slow, partial(critics_of, name="target")),
    ]:
        if f"{after}/{name}" in golden:
            assert_same_change(before, found, of(golden, after, before), what=name)


def test_temperature_and_weights_after_each_update(golden, training):
    for index, state in enumerate(training.states[1:], 1):
        name = f"after{index}/log_temp/log_temp"
        assert_recorded(golden, name, state.temperature.log_value, 2e-5)
        if f"after{index}/raw_optimism" in golden:
            expected = raw_weights_of(golden, f"after{index}")
            assert_close(state.explorer.raw_weights, expected, 1e-6, f"weights {index}")


test_every_array_is_read = every_array_is_read
