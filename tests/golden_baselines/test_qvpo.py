"""QVPO against its authors' code."""

import functools

import numpy as np
import pytest

from dime.algorithms import qvpo
from dime.algorithms.dipo import SlowDdpmPolicyConfig
from dime.algorithms.registry import ALGORITHMS
from dime.critics.critics import TargetCriticConfig

from . import pool
from .golden import Training, Update, assert_close, counters_of, every_array_is_read
from .pool import EXACT, Sizes

pytestmark = pool.MARKS
DECAY = 10**9  # env steps: as finely can the uniform actions' weight be chosen


@pytest.fixture(scope="module")
def config(golden):
    sizes, first = Sizes.of(golden), golden.arrays["update0/candidate_noise"]
    return qvpo.QvpoConfig(
        policy=SlowDdpmPolicyConfig(
            num_denoising_steps=sizes.num_steps,
            learning_rate=1e-4,
            **pool.network_settings(golden, "policy"),
        ),
        critic=TargetCriticConfig(adam_epsilon=1e-5, **pool.network_settings(golden, "critics")),
        uniform_actions=qvpo.UniformActionsConfig(
            num=len(golden.arrays["update0/uniform_actions"]),
            initial_weight=max(weights_of(golden)),
            final_weight=0.0,
            decay_env_steps=DECAY,
        ),
        num_training_candidates=first.shape[1],
        num_exploration_candidates=golden.arrays["act/explore_noise"].shape[1],
        num_action_candidates=golden.arrays["act/eval_noise"].shape[1],
    )


@pytest.fixture(scope="module")
def agent(golden, config):
    return ALGORITHMS["qvpo"].make(config, pool.spec_of(golden))


@pytest.fixture(scope="module")
def start(golden, agent, config):
    return pool.state_of(golden, "init", agent, config)


@pytest.fixture(scope="module")
def training(golden, agent, start):
    notes = {"best": (qvpo, "best_of"), "advantage": (qvpo, "advantage_of_best")}
    return Training(agent, start, updates_of(golden), **pool.NOTES, **notes)


def weights_of(golden):
    """The uniform actions' weight in each update."""
    updates = range(Sizes.of(golden).num_updates)
    return [float(pool.array_of(golden, index, "uniform_weight")) for index in updates]


def updates_of(golden):
    weights = weights_of(golden)
    for index, weight in enumerate(weights):
        of = functools.partial(pool.array_of, golden, index)
        batch = pool.batch_of(golden, of("rows_critics"), of("rows_policy"))
        env_step = round((1.0 - weight / max(weights)) * DECAY)
        normals = [*of("target_noise"), *of("candidate_noise"), of("loss_noise")]
        draws = {"normal": normals, "randint": [of("loss_steps")]}
        draws["uniform"] = [of("uniform_actions")]
        yield Update(batch, counters_of(env_step, index), draws)


test_schedule = pool.check_schedule
test_losses = pool.check_losses_and_gradient_norms
test_values_and_targets = pool.check_values_and_targets
test_first_gradients = pool.check_first_gradients
test_networks_after_all_updates = pool.check_networks_after_all_updates


def test_actions(golden, agent, start):
    pool.check_actions(golden, agent, start, "explore", "explore")
    pool.check_actions(golden, agent, start, "best_of_n", "eval")


def test_best_actions_and_weights(golden, training):
    """The last choice of an update is that of the policy's candidates."""
    pairs = zip(training.noted["best"], training.noted["advantage"], strict=True)
    for index, (best, advantage) in enumerate(pairs):
        of = functools.partial(pool.array_of, golden, index)
        assert_close(best, of("best_actions"), EXACT, f"{index}")
        relative = np.array([1.0] + [weights_of(golden)[index]] * len(of("uniform_actions")))
        assert_close(relative[:, None] * advantage, of("weights"), EXACT, f"{index}")


test_every_array_is_read = every_array_is_read
