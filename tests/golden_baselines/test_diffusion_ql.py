"""Diffusion-QL online, and Consistency-AC, against the code of the latter's authors."""

import functools

import jax
import numpy as np
import pytest

from dime.algorithms import diffusion_ql
from dime.algorithms.registry import ALGORITHMS
from dime.critics.critics import HeadedTargetCriticConfig
from dime.updates.action_modes import softmax_of

from . import pool
from .golden import (
    Training,
    Update,
    assert_close,
    assert_trees_close,
    compiled,
    counters_of,
    every_array_is_read,
)
from .pool import EXACT, Sizes

pytestmark = pool.MARKS


@pytest.fixture(scope="module")
def algorithm(request):
    return ALGORITHMS[request.module.__name__.rpartition("test_")[-1].replace("_", "-")]


@pytest.fixture(scope="module")
def config(golden, algorithm):
    default = algorithm.config()
    return algorithm.config(
        policy=type(default.policy)(
            num_denoising_steps=Sizes.of(golden).num_steps,
            **pool.network_settings(golden, "policy"),
        ),
        critic=HeadedTargetCriticConfig(**pool.network_settings(golden, "critics")),
        num_action_candidates=golden.arrays["act/noise"].shape[1],
    )


@pytest.fixture(scope="module")
def agent(golden, algorithm, config):
    return algorithm.make(config, pool.spec_of(golden))


@pytest.fixture(scope="module")
def start(golden, agent, config):
    return pool.state_of(golden, "init", agent, config)


@pytest.fixture(scope="module")
def training(golden, agent, start):
    return Training(agent, start, updates_of(golden), **pool.NOTES)


def updates_of(golden):
    for index in range(Sizes.of(golden).num_updates):
        of = functools.partial(pool.array_of, golden, index)
        counters = counters_of(0, golden.arrays["const/first_update"] + index)
        draws = {
            "normal": [*of("target_noise"), *of("policy_noise")],
            "randint": [of("critic_ahead")],
        }
        yield Update(pool.batch_of(golden, of("rows")), counters, draws)


test_losses = pool.check_losses_and_gradient_norms
test_first_gradients = pool.check_first_gradients
test_networks_after_all_updates = pool.check_networks_after_all_updates


def test_schedule(golden, start):
    if "const/betas" in golden:
        pool.check_schedule(golden, start)


def test_values_and_targets(golden, training):
    pool.check_values_and_targets(golden, training, rows="rows")


def test_choice_among_candidates(golden, agent, start):
    def choice(actions, value, key):
        logits = []
        with pytest.MonkeyPatch.context() as patch:
            keep = lambda key, value, axis: logits.append(value) or value.argmax(axis)  # noqa: E731
            patch.setattr(jax.random, "categorical", keep)
            softmax_of(actions, value, key)
        return actions, value, jax.nn.softmax(logits[0], axis=0)

    draws, obs = {"normal": [*golden.arrays["act/noise"]]}, golden.arrays["act/obs"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusion_ql, "softmax_of", choice)
        act = compiled(agent.act["softmax_of_n"])
        found = act(draws, start, obs, jax.random.key(0), None)
    for name, array in zip(("candidates", "value", "probabilities"), found, strict=True):
        assert_close(array, golden.arrays[f"act/{name}"], EXACT, name)


def test_gradient_through_the_chain(golden, start):
    def readout_of(policy, obs, readout, key):
        action = policy.sample(obs, key)
        return (action * readout).sum(), action

    draws = {"normal": [*golden.arrays["chain/noise"]]}
    arguments = golden.arrays["chain/obs"], golden.arrays["chain/readout"], jax.random.key(0)
    run = compiled(jax.grad(readout_of, has_aux=True))
    gradient, action = run(draws, start.policy.module, *arguments)
    assert_close(action, golden.arrays["chain/action"], EXACT)
    expected = pool.network_of(golden, "chain/gradient", gradient)
    assert_trees_close(gradient, expected, EXACT)


def test_behaviour_loss(golden, start):
    networks = pool.networks_of(golden, "after", start)
    steps = golden.arrays["behaviour/levels" if "behaviour/levels" in golden else "behaviour/steps"]
    draws = {"normal": [golden.arrays["behaviour/noise"]], "randint": [steps]}
    rows = pool.batch_of(golden, np.arange(len(steps))).transition
    run = compiled(jax.value_and_grad(type(start.policy.module).behaviour_loss))
    averaged, key = networks["averaged_policy"], jax.random.key(0)
    loss, gradient = run(draws, networks["policy"], averaged, rows.obs, rows.action, key)
    assert_close(loss, golden.arrays["behaviour/loss"], EXACT)
    expected = pool.network_of(golden, "behaviour/gradient", gradient)
    assert_trees_close(gradient, expected, EXACT)


test_every_array_is_read = every_array_is_read
