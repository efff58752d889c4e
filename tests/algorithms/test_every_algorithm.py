"""What every listed algorithm must do; one that is new is tested by being listed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.algorithms.registry import ALGORITHMS
from dime.experiments.presets import PRESETS, preset_settings
from dime.training.config import replace_nested
from dime.types import Batch, Counters, EnvSpec, Transition

SPEC = EnvSpec(obs_dim=3, action_dim=2, replay_capacity=64)
ROWS = 32
SMALL = {
    "hidden_dim": 16,
    "num_denoising_steps": 3,
    "num_quantiles": 7,
    "num_actions": 20,
    "num_training_candidates": 5,
}
every = pytest.mark.parametrize("name", ALGORITHMS)


def small(settings):
    """The settings with small networks, whatever they are called."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            settings = replace_nested(settings, {field.name: dataclasses.asdict(small(value))})
        elif field.name in SMALL:
            settings = replace_nested(settings, {field.name: SMALL[field.name]})
        elif field.name in ("v_min", "v_max"):
            settings = dataclasses.replace(settings, v_min=-20.0, v_max=20.0)
    return settings


@functools.cache
def agent(name):
    settings = small(ALGORITHMS[name].config())
    return ALGORITHMS[name].make(settings, SPEC)


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
    state = jax.jit(agent(name).init)(jax.random.key(0))
    update = jax.jit(agent(name).update)
    history = []
    for number in range(count):
        state, metrics = update(state, batch(number), jax.random.key(number), counters(number))
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
    start = jax.jit(agent(name).init)(jax.random.key(0))
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
    for mode, act in agent(name).act.items():
        for shape in ((), (5,), (2, 3)):
            obs = jax.random.normal(jax.random.key(1), (*shape, 3))
            action = jax.jit(act)(state, obs, jax.random.key(2), counters(6))
            assert action.shape == (*shape, 2), mode
            assert jnp.abs(action).max() <= 1.0, mode


@every
def test_only_deterministic_modes_ignore_the_key(name):
    state, _ = trained(name)
    obs = jax.random.normal(jax.random.key(1), (8, 3))
    for mode, act in agent(name).act.items():
        first, second = (jax.jit(act)(state, obs, jax.random.key(k), counters(6)) for k in (1, 2))
        quiet = mode in ("deterministic", "observation_seeded")
        assert bool((first == second).all()) == quiet, mode


@every
def test_seeds_side_by_side_do_as_they_would_alone(name):
    init, update = agent(name).init, agent(name).update

    def keys(number):
        return jax.random.split(jax.random.key(number), 2)

    states = jax.jit(jax.vmap(init))(keys(5))
    together, _ = jax.jit(jax.vmap(update, in_axes=(0, None, 0, None)))(
        states, batch(0), keys(6), counters(2)
    )
    for index in range(2):
        one = jax.tree.map(lambda leaf: leaf[index], states)  # noqa: B023
        alone, _ = jax.jit(update)(one, batch(0), keys(6)[index], counters(2))
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[index], b, rtol=1e-3, atol=2e-4)


@every
def test_an_ended_episode_has_no_future_and_any_other_has_one(name):
    """Where all rows terminate, critics are trained as with a discount of 0."""
    state, _ = trained(name)
    settings = replace_nested(small(ALGORITHMS[name].config()), {"discount": 0.0})
    update = jax.jit(agent(name).update)
    without_future = jax.jit(ALGORITHMS[name].make(settings, SPEC).update)

    def losses(terminated):
        transition = dataclasses.replace(batch(0).transition, terminated=jnp.full(ROWS, terminated))
        rows = Batch(transition, jnp.arange(ROWS))
        return [
            float(one(state, rows, jax.random.key(0), counters(6))[1]["critic_loss"])
            for one in (update, without_future)
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
    before, after = start.policy, state.policy
    assert (before.control.output.kernel != after.control.output.kernel).any()
    assert before.raw_step_scale == after.raw_step_scale
    assert (before.raw_dim_divisor == after.raw_dim_divisor).all()
    assert start.temperature.log_value != state.temperature.log_value
