"""What is remembered for a transition lasts as long as the transition is in the ring."""

import jax
import jax.numpy as jnp
import numpy as np

from dime.algorithms.dipo import ActionMemory
from dime.types import Batch, Transition

CAPACITY = 4
recall, remember = jax.jit(ActionMemory.recall), jax.jit(ActionMemory.remember)


def batch(rows, taken=0.5):
    num = len(rows)
    transition = Transition(
        obs=jnp.zeros((num, 1)),
        action=jnp.full((num, 2), taken),
        reward=jnp.zeros(num),
        next_obs=jnp.zeros((num, 1)),
        terminated=jnp.zeros(num, bool),
    )
    return Batch(transition, jnp.asarray(rows))


def recalled(memory, rows, env_step):
    """One number for each row."""
    actions = np.asarray(recall(memory, batch(rows), jnp.int32(env_step)))
    np.testing.assert_array_equal(actions[:, 0], actions[:, 1])
    return actions[:, 0].tolist()


def remembering(memory, rows, env_step, values):
    actions = jnp.tile(jnp.asarray(values, jnp.float32)[:, None], (1, 2))
    return remember(memory, batch(rows), jnp.int32(env_step), actions)


def test_nothing_is_remembered_at_first():
    memory = ActionMemory.start(CAPACITY, 2)
    for env_step in (4, 5, 9):
        assert recalled(memory, [0, 1, 2, 3], env_step) == [0.5] * 4


def test_what_is_remembered_is_recalled_and_the_rest_was_taken():
    memory = remembering(ActionMemory.start(CAPACITY, 2), [0, 2], 3, [0.1, 0.3])
    assert np.allclose(recalled(memory, [2, 1, 0], 3), [0.3, 0.5, 0.1])
    again = remembering(memory, [2, 2], 3, [0.7, 0.7])
    assert np.allclose(recalled(again, [0, 1, 2], 3), [0.1, 0.5, 0.7])


def test_a_newer_transition_in_the_row_ends_it():
    # Transitions 0 to 3 fill the ring; number 4 takes row 0, number 5 takes row 1.
    memory = remembering(ActionMemory.start(CAPACITY, 2), [0, 1, 2, 3], 4, [0.1] * 4)
    assert np.allclose(recalled(memory, [0, 1, 2, 3], 4), [0.1] * 4)
    assert np.allclose(recalled(memory, [0, 1, 2, 3], 5), [0.5, 0.1, 0.1, 0.1])
    memory = remembering(memory, [0, 1], 5, [0.9, 0.8])
    assert np.allclose(recalled(memory, [0, 1, 2, 3], 6), [0.9, 0.5, 0.1, 0.1])
    assert recalled(memory, [0, 1, 2, 3], 9) == [0.5] * 4


def test_as_a_dictionary_by_transition_would():
    memory, known, rng = ActionMemory.start(CAPACITY, 2), {}, np.random.default_rng(0)
    for env_step in range(1, 30):
        stored = range(max(0, env_step - CAPACITY), env_step)
        numbers = rng.choice(stored, size=3)
        expected = [known.get(number, 0.5) for number in numbers]
        assert np.allclose(recalled(memory, [n % CAPACITY for n in numbers], env_step), expected)
        chosen = np.resize(np.unique(numbers), 3)  # a batch may hold a transition twice
        known |= {number: 0.01 * number + 0.001 * env_step for number in chosen}
        values = [known[number] for number in chosen]
        memory = remembering(memory, [n % CAPACITY for n in chosen], env_step, values)
