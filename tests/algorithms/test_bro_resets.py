"""An agent with resets begins again at its steps, once for each, and otherwise not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.algorithms.bro.resets import with_resets
from dime.types import Agent, Counters


def init(key):
    return {"weight": jax.random.normal(key, (3,)), "updates": jnp.zeros((), jnp.int32)}


def update(state, batch, key, counters):
    moved = {"weight": state["weight"] + batch, "updates": state["updates"] + 1}
    return moved, {"weight_before": state["weight"].mean()}


def act(state, obs, key, counters):
    return obs + state["weight"]


AGENT = with_resets(Agent(init, {"explore": act}, update, batches_per_update=2), (5, 9))
begin, advance = jax.jit(AGENT.init), jax.jit(AGENT.update)


def run(env_steps, seed=0):
    """The numbers of updates and the shifts from the start, after each of these updates' steps."""
    state, start = begin(jax.random.key(seed)), init(jax.random.key(seed))["weight"]
    history = []
    for number, env_step in enumerate(env_steps):
        at = Counters(jnp.int32(env_step), jnp.int32(number))
        state, _ = advance(state, jnp.ones(3), jax.random.key(1), at)
        shift = np.asarray(state.current["weight"] - start)
        np.testing.assert_allclose(shift, shift[0], atol=1e-5)
        assert round(float(shift[0])) == int(state.current["updates"])
        history.append(int(state.current["updates"]))
    return history


def test_at_its_step_everything_begins_again_before_the_first_update():
    assert run([1, 2, 3, 4, 5, 6, 7]) == [1, 2, 3, 4, 1, 2, 3]


def test_a_step_with_several_updates_resets_once():
    assert run([4, 4, 4, 5, 5, 5, 6, 6]) == [1, 2, 3, 1, 2, 3, 4, 5]


def test_every_step_that_is_listed_resets():
    assert run([5, 5, 8, 9, 9, 10]) == [1, 2, 3, 1, 2, 3]


def test_the_first_of_all_updates_may_be_at_such_a_step():
    assert run([9, 9]) == [1, 2]


def test_a_step_that_is_skipped_resets_nothing():
    assert run([4, 6, 8, 10]) == [1, 2, 3, 4]


def test_seeds_return_to_their_own_start():
    states = jax.vmap(AGENT.init)(jax.random.split(jax.random.key(2), 3))
    start = np.asarray(states.current["weight"])
    assert len(np.unique(start[:, 0])) == 3
    many = jax.jit(jax.vmap(AGENT.update, in_axes=(0, None, None, None)))
    for env_step in (3, 4, 5):
        at = Counters(jnp.int32(env_step), jnp.int32(0))
        states, _ = many(states, jnp.ones(3), jax.random.key(0), at)
    np.testing.assert_allclose(states.current["weight"], start + 1.0, rtol=1e-5)


def test_the_rest_of_the_agent_is_as_it_was():
    state = begin(jax.random.key(0))
    at = Counters(jnp.int32(1), jnp.int32(0))
    np.testing.assert_array_equal(state.current["weight"], init(jax.random.key(0))["weight"])
    _, metrics = advance(state, jnp.ones(3), jax.random.key(1), at)
    assert float(metrics["weight_before"]) == pytest.approx(float(state.current["weight"].mean()))
    action = AGENT.act["explore"](state, jnp.zeros(3), jax.random.key(0), at)
    np.testing.assert_array_equal(action, state.current["weight"])
    assert AGENT.batches_per_update == 2
