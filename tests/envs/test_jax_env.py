"""Environments that JAX computes, seen from outside of the learner's program."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.envs import make
from dime.envs.environment import Environment
from dime.envs.jax_env import JaxEnv
from dime.errors import DimeError
from tests.training.jax_walk import EPISODE_STEPS, TASK, JaxWalk, jax_walk


def episode(environment, seed, actions):
    obs, rewards = [environment.reset(seed)], []
    for action in actions:
        result = environment.step(action)
        obs.append(result.obs)
        rewards.append(result.reward)
        if result.terminated or result.truncated:
            break
    return np.stack(obs), np.array(rewards), result


def test_an_episode_follows_from_its_seed_and_its_actions():
    environment = Environment(jax_walk())
    actions = np.random.default_rng(0).uniform(-0.2, 0.2, (EPISODE_STEPS, 2))
    first, other, again = (episode(environment, seed, actions) for seed in (1, 2, 1))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0][0], other[0][0])


def test_a_time_limit_truncates_and_the_end_of_the_task_terminates():
    environment = Environment(jax_walk())
    endings = set()
    for seed in range(20):
        obs, _, result = episode(environment, seed, np.zeros((EPISODE_STEPS, 2)))
        outside = bool(np.abs(obs[-1]).max() > 1.0)
        assert (result.terminated, result.truncated) == (outside, not outside)
        assert result.terminated or len(obs) == EPISODE_STEPS + 1
        endings.add(outside)
    assert endings == {False, True}
    assert environment.max_episode_steps == EPISODE_STEPS


def test_without_a_seed_episodes_differ():
    env = jax_walk()
    assert not np.array_equal(env.reset()[0], env.reset()[0])


def test_a_task_and_its_environment_are_made_by_a_factory():
    assert make(jax_walk).obs_dim == 2


def test_a_step_before_the_first_reset_is_refused():
    with pytest.raises(DimeError, match="before reset"):
        jax_walk().step(np.zeros(2))


def test_tasks_that_cannot_be_trained_on_the_device_are_refused():
    task = JaxWalk()
    task.step = lambda state, action: state
    task.reset = lambda rng: TASK.reset(rng)._replace(obs={"state": jnp.zeros(2), "more": 1.0})
    with pytest.raises(DimeError, match=r"`obs`, a vector.*shapes are \[None"):
        JaxEnv(task, 5)
    task.reset = lambda rng: TASK.reset(rng)._replace(obs=jnp.zeros((2, 2)))
    with pytest.raises(DimeError, match=r"`obs`, a vector.*shapes are \[\(2, 2\)"):
        JaxEnv(task, 5)
    task.reset = lambda rng: 1 // 0
    with pytest.raises(DimeError, match="JaxWalk cannot be compiled .ZeroDivisionError"):
        JaxEnv(task, 5)
    task = JaxWalk()
    task.step = lambda state, action: 1 // 0
    with pytest.raises(DimeError, match="JaxWalk cannot be compiled .ZeroDivisionError"):
        JaxEnv(task, 5)
    task = JaxWalk()
    task.step = lambda state, action: TASK.step(state, action)._replace(done=jnp.array(True))
    with pytest.raises(DimeError, match=r"(?s)cannot be compiled.*\.done has type float32.*bool"):
        JaxEnv(task, 5)
    for limit in (0, 2**31, 1.5):
        with pytest.raises(DimeError, match="max_episode_steps is "):
            JaxEnv(TASK, limit)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"reward": jnp.zeros(1)},
            r"`reward` and `done`, one number each.*\[\(2,\), \(1,\), \(\)\]",
        ),
        ({"done": jnp.zeros(1)}, r"`reward` and `done`, one number each.*\[\(2,\), \(\), \(1,\)\]"),
        ({"velocity": jax.random.key(0)}, "typed random key.*key_data"),
    ],
)
def test_states_that_could_not_be_stored_are_refused(change, words):
    task = JaxWalk()
    task.reset = lambda rng: TASK.reset(rng)._replace(**change)
    task.step = lambda state, action: state
    with pytest.raises(DimeError, match=words):
        JaxEnv(task, 5)


def test_states_without_what_a_state_has_are_refused():
    task = JaxWalk()
    task.step = lambda state, action: state
    task.reset = lambda rng: {"obs": jnp.zeros(2), "reward": 0.0, "done": 0.0}
    with pytest.raises(DimeError, match="need the attributes `obs`, .*shapes are .None"):
        JaxEnv(task, 5)


def test_a_task_without_a_hash_is_refused():
    @dataclasses.dataclass
    class Equal(JaxWalk):
        size: int = 2

    with pytest.raises(DimeError, match="Equal has no hash.*eq=False"):
        JaxEnv(Equal(), 5)
