"""QSM: its chain, the critics, and the denoiser that follows their gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.algorithms.qsm import QsmConfig, QsmPolicyConfig
from dime.algorithms.registry import ALGORITHMS
from dime.critics.critics import TargetCriticConfig, critic_outputs
from dime.critics.heads import ScalarHead
from dime.diffusion.ddpm import Noise, variance_preserving_betas
from dime.types import Counters

from .golden import (
    Training,
    assert_close,
    assert_forward,
    assert_merged,
    assert_recorded,
    assert_same_change,
    assert_trees_close,
    compiled,
    every_array_is_read,
    fill,
    first_gradient,
    layers_of,
    spec_of,
    stacked,
    updates_of,
    zero_state,
)

pytestmark = pytest.mark.promise("R15")
COUNTERS = Counters(jnp.int32(1), jnp.int32(0))


def config_of(golden):
    policy = layers_of(golden, "init/score_model/MLP_1/Dense_")
    critic = layers_of(golden, "init/critic_1/MLP_0/Dense_")
    return QsmConfig(
        policy=QsmPolicyConfig(
            num_denoising_steps=golden["betas"].shape[0],
            hidden_dim=policy[0][1].shape[-1],
            num_hidden_layers=len(policy) - 1,
        ),
        critic=TargetCriticConfig(hidden_dim=critic[0][1].shape[-1], num_hidden_layers=len(critic)),
        alignment=50.0,
    )


def score_leaves(golden, prefix):
    """Frequencies, time network (where it is there), denoiser."""
    layers = layers_of(golden, f"{prefix}/MLP_0/Dense_") + layers_of(
        golden, f"{prefix}/MLP_1/Dense_"
    )
    frequencies = golden[f"{prefix}/FourierFeatures_0/kernel"][:, 0]
    return [frequencies, *(leaf for layer in layers for leaf in layer)]


def critics_of(golden, when, template, name="critic"):
    def critic(index):
        prefix = f"{when}/{name}_{index}/"
        layers = layers_of(golden, f"{prefix}MLP_0/Dense_") + layers_of(golden, f"{prefix}Dense_")
        return [leaf for layer in layers for leaf in layer]

    return fill(template, stacked(critic(1), critic(2)))


@pytest.fixture(scope="module")
def agent(golden):
    return ALGORITHMS["qsm"].make(config_of(golden), spec_of(golden))


@pytest.fixture(scope="module")
def start(golden, agent):
    state = zero_state(agent)
    critics = state.critics._replace(
        online=critics_of(golden, "init", state.critics.online),
        slow=critics_of(golden, "init", state.critics.slow, "target_critic"),
    )
    policy = fill(state.policy.module, score_leaves(golden, "init/score_model"))
    return state._replace(policy=state.policy._replace(module=policy), critics=critics)


@pytest.fixture(scope="module")
def training(golden, agent, start):
    def draws(index):
        noise = f"noise{index}/"
        normal = [*golden.arrays[noise + "next_chain"]]
        normal += [golden[noise + "next_added"], golden[noise + "noise"]]
        return {"normal": normal, "randint": [golden[noise + "time"]]}

    notes = {"target": (ScalarHead, "target")}
    return Training(agent, start, updates_of(golden, draws), **notes)


def test_schedule(golden):
    betas = variance_preserving_betas(golden["betas"].shape[0])
    assert_close(betas, golden["betas"], 1e-6)
    assert_close(Noise.of(betas).alpha_bars, golden["alpha_hats"], 1e-6)


def test_forward(golden, agent, start):
    rows = golden["forward/evaluate_action"].shape[0]

    def forward(state, obs, action, time):
        key = jax.random.key(0)
        q1, q2 = critic_outputs(state.critics.online, obs, action)[..., 0]
        return {
            "q1": q1,
            "q2": q2,
            "eps": state.policy.module.denoiser(action, obs, time),
            "evaluate_action": agent.act["stochastic"](state, obs[:rows], key, COUNTERS),
            "explore_action": agent.act["explore"](state, obs[:rows], jax.random.key(1), COUNTERS),
        }

    names = "forward/evaluate_noise", "forward/explore_noise"
    normal = [draw for name in names for draw in golden.arrays[name].swapaxes(0, 1)]
    batch = golden["batch/obs"][0], golden["batch/action"][0]
    time = golden["forward/time"]
    assert_forward(golden, compiled(forward)({"normal": normal}, start, *batch, time))


def test_losses(golden, training):
    for index, metrics in enumerate(training.metrics):
        of = f"info{index}/"
        assert_recorded(golden, f"{of}actor_loss_mean", metrics["policy_loss"], 4e-6)
        assert_merged(golden, f"{of}c_loss_mean_{{}}", np.sum, metrics["critic_loss"], 4e-6)
        assert_merged(golden, f"{of}q_mean_{{}}", np.mean, metrics["q_mean"], 4e-6)
        target = training.noted["target"][index]
        for name, summary in [("mean", np.mean), ("max", np.max), ("min", np.min)]:
            assert_recorded(golden, f"{of}target_q_{name}", summary(target), 4e-6)


def test_first_gradients(golden, training):
    state = training.states[1]
    if "grad0/critic_1" in golden:
        critics = first_gradient(state.critics.optimizer)
        assert_trees_close(critics, critics_of(golden, "grad0", critics), 1e-5)
    if "grad0/score_model" in golden:
        denoiser = first_gradient(state.policy.optimizer).denoiser
        found = [denoiser.features.frequencies, *jax.tree.leaves(denoiser.mlp)]
        if "grad0/score_model/MLP_0" in golden:
            found = denoiser
        assert_trees_close(found, score_leaves(golden, "grad0/score_model"), 1e-5)


def test_parameters_after_all_updates(golden, start, training):
    last, after = training.states[-1], f"after{len(training.metrics)}"
    if f"{after}/score_model" in golden:
        expected = fill(start.policy.module, score_leaves(golden, f"{after}/score_model"))
        assert_same_change(start.policy.module, last.policy.module, expected, what="policy")
    for name, named in [("online", "critic"), ("slow", "target_critic")]:
        if f"{after}/{named}_1" in golden:
            before, found = (getattr(state.critics, name) for state in (start, last))
            expected = critics_of(golden, after, before, named)
            assert_same_change(before, found, expected, what=named)


test_every_array_is_read = every_array_is_read
