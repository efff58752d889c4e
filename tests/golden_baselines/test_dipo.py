"""DIPO against its authors' code, and with the write-back that the code means to make."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.algorithms import dipo
from dime.algorithms.dipo import ActionMemory
from dime.algorithms.registry import ALGORITHMS
from dime.critics.critics import TargetCriticConfig, critic_outputs
from dime.critics.heads import ScalarHead, smallest

from . import pool
from .golden import Training, Update, assert_close, counters_of, every_array_is_read, widened
from .pool import EXACT, Sizes

pytestmark = pool.MARKS
NOTES = pool.NOTES | {"improved": (dipo, "improved_actions")}


@pytest.fixture(scope="module")
def config(golden):
    climb = float(golden.arrays["const/max_climb_norm_per_dim"])
    return dipo.DipoConfig(
        policy=dipo.SlowDdpmPolicyConfig(
            num_denoising_steps=Sizes.of(golden).num_steps,
            **pool.network_settings(golden, "policy"),
        ),
        critic=TargetCriticConfig(adam_epsilon=1e-5, **pool.network_settings(golden, "critics")),
        improvement=dipo.ImprovementConfig(max_gradient_norm_per_dim=climb, write_back=False),
        target_policy_delay=2,
    )


@pytest.fixture(scope="module")
def agent(golden, config):
    return ALGORITHMS["dipo"].make(config, pool.spec_of(golden))


@pytest.fixture(scope="module")
def start(golden, agent, config):
    return start_of(golden, agent, config)


@pytest.fixture(scope="module")
def training(golden, agent, start):
    return Training(agent, start, updates_of(golden), **NOTES)


def start_of(golden, agent, config):
    spec = pool.spec_of(golden)
    num_rows = spec.replay_capacity if config.improvement.write_back else 0
    state = pool.state_of(golden, "init", agent, config)
    return state._replace(memory=ActionMemory.start(num_rows, spec.action_dim))


def updates_of(golden):
    for index in range(Sizes.of(golden).num_updates):
        of = functools.partial(pool.array_of, golden, index)
        batch = pool.batch_of(golden, of("rows_critics"), of("rows_policy"))
        counters = counters_of(pool.spec_of(golden).replay_capacity, index)
        normals = [*of("target_noise"), of("loss_noise")]
        yield Update(batch, counters, {"normal": normals, "randint": [of("loss_steps")]})


test_schedule = pool.check_schedule
test_losses = pool.check_losses_and_gradient_norms
test_values_and_targets = pool.check_values_and_targets
test_first_gradients = pool.check_first_gradients
test_networks_after_all_updates = pool.check_networks_after_all_updates


def test_actions(golden, agent, start):
    pool.check_actions(golden, agent, start, "explore", "explore")
    pool.check_actions(golden, agent, start, "noise_free", "eval", num_draws=1)


def test_climb(golden, config, training):
    head = ScalarHead(combine=smallest, weight=1.0)
    num_steps = config.improvement.num_steps
    but_one = dataclasses.replace(config.improvement, num_steps=num_steps - 1)

    @jax.jit
    def ends_of_norms(critics, obs, action):
        def value(action):
            return head.combined_value(critic_outputs(critics, obs, action))

        last = dipo.improved_actions(but_one, value, action)
        slope = jax.grad(lambda action: value(action).sum())
        return jnp.stack([jnp.linalg.norm(slope(each)) for each in (action, last)])

    for index, improved in enumerate(training.noted["improved"]):
        of = functools.partial(pool.array_of, golden, index)
        assert_close(improved, of("improved_actions"), EXACT, f"{index}")
        rows = pool.batch_of(golden, of("rows_policy")).transition
        critics = training.states[index + 1].critics.online
        found = ends_of_norms(critics, *widened((rows.obs, rows.action)))
        assert_close(found, of("climb_gradient_norms")[[0, num_steps - 1]], EXACT, f"{index}")


def test_write_back(golden, config):
    improvement = dataclasses.replace(config.improvement, write_back=True)
    config = dataclasses.replace(config, improvement=improvement)
    spec = pool.spec_of(golden)
    agent = ALGORITHMS["dipo"].make(config, spec)
    start = start_of(golden, agent, config)
    training = Training(agent, start, updates_of(golden), **NOTES)
    num_rows = spec.replay_capacity
    everything = pool.batch_of(golden, np.arange(num_rows))
    memory = training.states[-1].memory.recall(everything, jnp.int32(num_rows))
    losses = [metrics["policy_loss"] for metrics in training.metrics]
    for name, found in [
        ("improved_actions", np.stack(training.noted["improved"])),
        ("policy_loss", np.stack(losses)),
        ("memory_after", memory),
    ]:
        assert_close(found, golden.arrays[f"write_back/{name}"], EXACT, name)


test_every_array_is_read = every_array_is_read
