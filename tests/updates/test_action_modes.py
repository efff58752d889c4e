"""Choosing among candidates: the most valued, or by a softmax of the values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.updates.action_modes import best_of, repeat, softmax_of
from tests.drawn import normal


@pytest.mark.parametrize("lead", [(), (4,), (2, 3)], ids=str)
def test_each_observation_gets_its_own_best_action(lead):
    actions, value = normal(0, 5, *lead, 2), normal(1, 5, *lead)
    chosen = np.asarray(best_of(actions, value))
    assert chosen.shape == (*lead, 2)
    for place in np.ndindex(lead):
        winner = np.argmax(np.asarray(value)[:, *place])
        np.testing.assert_array_equal(chosen[place], np.asarray(actions)[winner, *place])


def test_observations_are_repeated_along_a_new_first_axis():
    obs = normal(2, 3, 4)
    repeated = repeat(obs, 5)
    assert repeated.shape == (5, 3, 4)
    np.testing.assert_array_equal(repeated[4], obs)


def test_draws_have_the_softmaxs_frequencies():
    value = jnp.array([[1.0, -3.0], [2.0, 0.0], [0.5, 0.0]])  # candidates x observations
    actions = jnp.broadcast_to(jnp.arange(3.0)[:, None, None], (3, 2, 1))

    @jax.jit
    def draw(key):
        keys = jax.random.split(key, 20_000)
        return jax.vmap(lambda key: softmax_of(actions, value, key)[:, 0])(keys)

    drawn = np.asarray(draw(jax.random.key(0)), int)
    for column in range(2):
        exact = np.exp(value[:, column]) / np.exp(value[:, column]).sum()
        frequencies = np.bincount(drawn[:, column], minlength=3) / len(drawn)
        np.testing.assert_allclose(frequencies, exact, atol=0.015)
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.03  # each observation has a draw of its own


def test_far_better_actions_are_always_drawn():
    actions, value = normal(3, 4, 6, 2), 1e4 * normal(4, 4, 6)
    np.testing.assert_array_equal(
        softmax_of(actions, value, jax.random.key(1)), best_of(actions, value)
    )
