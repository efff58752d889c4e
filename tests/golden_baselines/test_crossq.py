"""CrossQ: batch renormalisation, the joint pass of the critics, the delayed policy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dime.algorithms.crossq import CrossQConfig, CrossQPolicyConfig
from dime.algorithms.registry import ALGORITHMS
from dime.critics.critics import CrossQCriticConfig
from dime.networks.batch_renorm import RunningStats
from dime.policies.tanh_gaussian import TanhGaussian
from dime.types import Counters
from dime.updates.max_entropy import EntropyTemperatureConfig
from tests.joint_critics import evaluate_critics

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
    joined,
    layers_of,
    spec_of,
    updates_of,
    zero_state,
)

pytestmark = pytest.mark.promise("R15")
NOT_COMPARED = {
    "*_stats/*/[rd]_max": "the correction's bounds, which here follow from the steps",
    "info*/next_q_values": "not measured here; they are in the critics' loss and gradient",
    "info*/n_updates": "a counter",
}
COUNTERS = Counters(jnp.int32(1), jnp.int32(0))
POLICY_DELAY = 3
_STATS = jax.tree.structure(RunningStats.start(1))


def updates_per_call(golden):
    return int(golden["utd"]) if "utd" in golden else 1


def num_updates(golden):
    return golden["batch/obs"].shape[0]


def policy_updates(golden):
    """The updates, counted from 0, in which the policy is trained too."""
    return range(POLICY_DELAY - 1, num_updates(golden), POLICY_DELAY)


def learning_rate(golden):
    """Of all parts: how far Adam's first step took the temperature's logarithm."""
    log_values = (golden.arrays.get(name) for name in temperatures(golden).values())
    first = golden.arrays.get("init/temperature/log_ent_coef")
    moved = (abs(float(value - first)) for value in log_values)
    return float(f"{next(distance for distance in moved if distance > 0.0):.1e}")


def temperatures(golden):
    """By the number of updates made, the names of the temperatures after them."""
    names = {i: f"after{i}/temperature/log_ent_coef" for i in range(1, num_updates(golden) + 1)}
    return {i: name for i, name in names.items() if name in golden}


def config_of(golden):
    policy = layers_of(golden, "init/actor/Dense_")
    critic = layers_of(golden, "init/critic/VmapCritic_0/Dense_")
    rate = learning_rate(golden)
    return CrossQConfig(
        policy=CrossQPolicyConfig(
            hidden_dim=policy[0][1].shape[-1],
            num_hidden_layers=len(policy) - 2,
            learning_rate=rate,
        ),
        critic=CrossQCriticConfig(
            hidden_dim=critic[0][1].shape[-1],
            num_hidden_layers=len(critic) - 1,
            num_critics=critic[0][0].shape[0],
            learning_rate=rate,
        ),
        temperature=EntropyTemperatureConfig(learning_rate=rate),
        policy_delay=POLICY_DELAY,
    )


def norms_of(golden, prefix, names):
    count = sum(f"{prefix}BatchRenorm_{i}" in golden for i in range(99))
    return [[golden[f"{prefix}BatchRenorm_{i}/{name}"] for name in names] for i in range(count)]


def policy_of(golden, prefix, template):
    """The policy; its two heads make one layer here."""
    *hidden, mean, log_std = layers_of(golden, f"{prefix}/Dense_")
    norms = norms_of(golden, f"{prefix}/", ("scale", "bias"))
    layers = (*norms, *hidden, joined(mean, log_std))
    return fill(template, [leaf for layer in layers for leaf in layer])


def critics_of(golden, prefix, template):
    layers = norms_of(golden, f"{prefix}/VmapCritic_0/", ("scale", "bias"))
    layers += layers_of(golden, f"{prefix}/VmapCritic_0/Dense_")
    return fill(template, [leaf for layer in layers for leaf in layer])


def stats_of(golden, prefix):
    # Stacked for two critics: the constructor would check one critic's shapes.
    layers = norms_of(golden, prefix, ("mean", "var", "steps"))
    return tuple(jax.tree.unflatten(_STATS, layer) for layer in layers)


@pytest.fixture(scope="module")
def agent(golden):
    return ALGORITHMS["crossq"].make(config_of(golden), spec_of(golden))


@pytest.fixture(scope="module")
def start(golden, agent):
    state = zero_state(agent)
    critics = state.critics._replace(
        online=critics_of(golden, "init/critic", state.critics.online),
        stats=stats_of(golden, "init/critic_stats/VmapCritic_0/"),
    )
    log_temperature = golden["init/temperature/log_ent_coef"]
    return state._replace(
        policy=state.policy._replace(module=policy_of(golden, "init/actor", state.policy.module)),
        policy_stats=stats_of(golden, "init/actor_stats/"),
        critics=critics,
        temperature=state.temperature._replace(log_value=log_temperature),
    )


@pytest.fixture(scope="module")
def training(golden, agent, start):
    def draws(index):
        """The critic's draw and the policy's, or in its place what will not be used."""
        done = index + sum(update < index for update in policy_updates(golden))
        due = index in policy_updates(golden)
        return {"normal": [golden[f"noise/{done}"], golden[f"noise/{done + due}"]]}

    # A variance here is the small difference of two squares, and an input of a ReLU is 8e-6.
    return Training(agent, start, updates_of(golden, draws), fuse=False)


def test_forward(golden, agent, start):
    def forward(state, obs, action):
        key, law = (
            jax.random.key(0),
            TanhGaussian.from_output(state.policy.module(obs, state.policy_stats)),
        )
        pairs = jnp.concatenate([obs, action], axis=-1)
        return {
            "mean": law.mean,
            "std": jnp.exp(law.log_std),
            "log_prob": law.sample(key).log_prob,
            "action": agent.act["explore"](state, obs, key, COUNTERS),
            "evaluate_action": agent.act["deterministic"](state, obs, key, COUNTERS),
            "q": evaluate_critics(state.critics.online, state.critics.stats, pairs),
        }

    draws = {"normal": 2 * [golden["forward/noise"]]}
    arguments = start, golden["batch/obs"][0], golden["batch/action"][0]
    assert_forward(golden, compiled(forward)(draws, *arguments))


def test_losses(golden, training):
    """A call reports its last critic loss, and its last policy loss or 0."""
    per_call = updates_per_call(golden)
    for call in range(num_updates(golden) // per_call):
        updates = range(call * per_call, (call + 1) * per_call)
        last = training.metrics[updates[-1]]
        temperature = training.states[updates[-1]].temperature.log_value
        due = [update for update in updates if update in policy_updates(golden)]
        found = {
            "critic_loss": last["critic_loss"],
            "actor_loss": training.metrics[due[-1]]["policy_loss"] if due else 0.0,
            "ent_coef": np.exp(temperature),
            "current_q_values": last["q_mean"],
        }
        for name, value in found.items():
            assert_recorded(golden, f"info{call}/{name}", value, 4e-6)


def test_first_gradient_of_the_critics(golden, training):
    if "grad_critic_1" in golden:
        critics = first_gradient(training.states[1].critics.optimizer, b1=0.5)
        assert_trees_close(critics, critics_of(golden, "grad_critic_1", critics), 1e-5)


def gradient(before, after, b1):
    """The gradient of a step, from Adam's first moment before and after it."""
    moments = (optax.tree.get(optimizer, "mu") for optimizer in (before, after))
    step = lambda old, new: (np.asarray(new, np.float64) - b1 * np.asarray(old)) / (1.0 - b1)  # noqa: E731
    return jax.tree.map(step, *moments)


def test_gradients_of_policy_and_temperature(golden, training):
    for update in policy_updates(golden):
        call = update // updates_per_call(golden)
        before, after = training.states[update : update + 2]
        if f"grad_actor_{call}" in golden:
            policy = gradient(before.policy.optimizer, after.policy.optimizer, 0.5)
            expected = policy_of(golden, f"grad_actor_{call}", before.policy.module)
            assert_trees_close(policy, expected, 1e-5, f"call {call}")
        optimizers = before.temperature.optimizer, after.temperature.optimizer
        name = f"grad_temperature_{call}"
        assert_recorded(golden, name, gradient(*optimizers, 0.9), 1e-5)


def test_running_statistics(golden, training):
    for index, state in enumerate(training.states):
        for prefix, stats in [
            (f"after{index}/critic_stats/VmapCritic_0/", state.critics.stats),
            (f"after{index}/actor_stats/", state.policy_stats),
        ]:
            if expected := stats_of(golden, prefix):
                assert_trees_close(stats, expected, 1e-6, prefix)


def test_parameters_after_all_updates(golden, start, training):
    last, after = training.states[-1], f"after{num_updates(golden)}"
    for name, before, found, of in [
        ("actor", start.policy.module, last.policy.module, policy_of),
        ("critic", start.critics.online, last.critics.online, critics_of),
    ]:
        if f"{after}/{name}" in golden:
            expected = of(golden, f"{after}/{name}", before)
            assert_same_change(before, found, expected, what=name)


def test_temperature(golden, training):
    for index, name in temperatures(golden).items():
        assert_close(training.states[index].temperature.log_value, golden[name], 1e-6, name)


test_every_array_is_read = every_array_is_read
