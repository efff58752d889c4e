"""What every listed algorithm must do; one that is new is tested by being listed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.algorithms.registry import ALGORITHMS
from dime.training.config import replace_nested
from dime.training.presets import PRESETS, preset_settings
from dime.types import Batch, Counters, EnvSpec, Transition
from tests.algorithms.small import small

SPEC = EnvSpec(obs_dim=3, action_dim=2, replay_capacity=64)
ROWS = 32
every = pytest.mark.parametrize("name", ALGORITHMS)
# One of each kind of critics: in a joint pass, with targets, of quantiles, Gaussian.
KINDS = ("dime", "sac", "bro", "dacer")


@functools.cache
def agent(name):
    settings = small(ALGORITHMS[name].config())
    return ALGORITHMS[name].make(settings, SPEC)


@functools.cache
def init(name):
    return jax.jit(agent(name).init)


@functools.cache
def update(name):
    return jax.jit(agent(name).update)


@functools.cache
def act(name, mode):
    return jax.jit(agent(name).act[mode])


OBS = jax.random.normal(jax.random.key(1), (2, 3, 3))


def batch(seed):
    keys = jax.random.split(jax.random.key(seed), 4)
    return Batch(
        Transition(
            obs=jax.random.normal(keys[0], (ROWS, 3)),
            action=jnp.tanh(jax.random.normal(keys[1], (ROWS, 2))),
            reward=jax.random.normal(keys[2], (ROWS,)),
            next_obs=jax.random.normal(keys[3], (ROWS, 3)),
            terminated=jnp.arange(ROWS) % 8 == 0,
        ),
        jnp.arange(ROWS),
    )


def counters(update):
    return Counters(jnp.int32(update), jnp.int32(update))


@functools.cache
def trained(name, count=6):
    state = init(name)(jax.random.key(0))
    history = []
    for number in range(count):
        state, metrics = update(name)(
            state, batch(number), jax.random.key(number), counters(number)
        )
        history.append(metrics)
    return state, history


@every
def test_updates_keep_structure_and_are_finite(name):
    state, history = trained(name)
    start = jax.eval_shape(agent(name).init, jax.random.key(0))
    assert jax.tree.structure(state) == jax.tree.structure(start)
    for leaf, expected in zip(jax.tree.leaves(state), jax.tree.leaves(start), strict=True):
        assert (leaf.shape, leaf.dtype) == (expected.shape, expected.dtype)
        assert np.isfinite(leaf).all()
    for metrics in history:
        assert set(metrics) == set(history[0])
        assert all(np.isfinite(value).all() for value in metrics.values())
        assert {"critic_loss", "q_mean", "critic_gradient_norm", "policy_loss"} <= set(metrics)


@every
def test_updates_move_policy_and_critics(name):
    state, _ = trained(name)
    start = init(name)(jax.random.key(0))
    before, after = (dict(jax.tree_util.tree_leaves_with_path(s)) for s in (start, state))
    for part in (".policy.", ".critics.online."):
        moved = [
            bool((before[path] != after[path]).any())
            for path in before
            if part in jax.tree_util.keystr(path)
        ]
        assert len(moved) > 3, part
        assert np.mean(moved) > 0.8, part


@every
def test_actions_are_in_the_box_for_any_leading_axes(name):
    state, _ = trained(name)
    assert {"stochastic", "deterministic", "best_of_n"} <= set(ALGORITHMS[name].modes)
    assert {"explore", *ALGORITHMS[name].modes} == set(agent(name).act)
    for mode in agent(name).act:
        for shape in ((), (5,)):
            rest = (jax.random.key(2), counters(6))
            action = jax.eval_shape(agent(name).act[mode], state, jnp.zeros((*shape, 3)), *rest)
            assert action.shape == (*shape, 2), mode
        action = act(name, mode)(state, OBS, jax.random.key(2), counters(6))
        assert action.shape == (2, 3, 2), mode
        assert jnp.abs(action).max() <= 1.0, mode


@every
def test_only_deterministic_modes_ignore_the_key(name):
    state, _ = trained(name)
    for mode in agent(name).act:
        first, second = (
            act(name, mode)(state, OBS, jax.random.key(k), counters(6)) for k in (1, 2)
        )
        quiet = mode in ("deterministic", "observation_seeded")
        assert bool((first == second).all()) == quiet, mode


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.soak] * (name not in KINDS)) for name in ALGORITHMS],
)
def test_seeds_side_by_side_do_as_they_would_alone(name):
    def keys(number):
        return jax.random.split(jax.random.key(number), 2)

    begun = [init(name)(key) for key in keys(5)]
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *begun)
    together, _ = jax.jit(jax.vmap(agent(name).update, in_axes=(0, None, 0, None)))(
        states, batch(0), keys(6), counters(2)
    )
    for index in range(2):
        alone, _ = update(name)(begun[index], batch(0), keys(6)[index], counters(2))
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[index], b, rtol=1e-3, atol=2e-4)


@every
def test_an_ended_episode_has_no_future_and_any_other_has_one(name):
    """Where all rows terminate, critics are trained as with a discount of 0."""
    state, _ = trained(name)
    settings = replace_nested(small(ALGORITHMS[name].config()), {"discount": 0.0})
    without_future = jax.jit(ALGORITHMS[name].make(settings, SPEC).update)

    def losses(terminated):
        transition = dataclasses.replace(batch(0).transition, terminated=jnp.full(ROWS, terminated))
        rows = Batch(transition, jnp.arange(ROWS))
        return [
            float(one(state, rows, jax.random.key(0), counters(6))[1]["critic_loss"])
            for one in (update(name), without_future)
        ]

    here, there = losses(terminated=True)
    assert here == pytest.approx(there, rel=1e-6)
    here, there = losses(terminated=False)
    assert abs(here - there) > 1e-3 * abs(there)


@every
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_exist_and_are_described(name, preset):
    settings = preset_settings(preset, name, "dm_control/cartpole-swingup")
    assert isinstance(settings, ALGORITHMS[name].config)
    assert all((ALGORITHMS[name].paper, ALGORITHMS[name].policy, ALGORITHMS[name].critic))


def test_the_log_variance_objective_trains_the_control_and_not_the_step_sizes():
    settings = replace_nested(small(ALGORITHMS["dime"].config()), {"objective": "log-variance"})
    made = ALGORITHMS["dime"].make(settings, SPEC)
    start = jax.jit(made.init)(jax.random.key(0))
    due = counters(settings.policy_delay - 1)
    state, metrics = jax.jit(made.update)(start, batch(0), jax.random.key(1), due)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, metrics)))
    before, after = start.policy.module, state.policy.module
    assert (before.control.output.kernel != after.control.output.kernel).any()
    assert before.raw_step_scale == after.raw_step_scale
    assert (before.raw_dim_divisor == after.raw_dim_divisor).all()
    assert start.temperature.log_value != state.temperature.log_value
