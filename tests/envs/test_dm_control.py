import numpy as np
import pytest
from dm_control import suite

from dime.envs import Environment, make, make_env
from dime.errors import DimeError


def episode(env, seed, steps=12):
    actions = np.random.default_rng(seed).uniform(-1, 1, (steps, *env.action_space.shape))
    obs, rewards = [env.reset(seed=seed)[0]], []
    for action in actions:
        next_obs, reward, *_ = env.step(action)
        obs.append(next_obs)
        rewards.append(reward)
    return np.stack(obs), np.array(rewards)


TASKS = ["cartpole-swingup", "dog-run", "humanoid-walk", "quadruped-run", "fish-swim"]


@pytest.mark.parametrize("task", TASKS)
def test_an_episode_follows_from_seed_and_actions_bit_for_bit(task):
    env, fresh = make_env(f"dm_control/{task}"), make_env(f"dm_control/{task}")
    first, _, again = episode(env, 1), episode(env, 2), episode(env, 1)
    elsewhere = episode(fresh, 1)
    for one, two, three in zip(first, again, elsewhere, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("task", TASKS)
def test_different_seeds_start_differently(task):
    env = make_env(f"dm_control/{task}")
    assert not np.array_equal(env.reset(seed=1)[0], env.reset(seed=2)[0])


@pytest.mark.parametrize("task", ["humanoid-run", "manipulator-bring_ball", "dog-walk"])
def test_it_is_dm_controls_own_episode_in_its_own_key_order(task):
    domain, name = task.split("-")
    original = suite.load(domain, name, task_kwargs={"random": 7})
    actions = np.random.default_rng(0).uniform(-1, 1, (5, *original.action_spec().shape))
    steps = [original.reset()] + [original.step(action) for action in actions]
    flat = [np.concatenate([np.ravel(v) for v in s.observation.values()]) for s in steps]

    env = make_env(f"dm_control/{task}")
    obs = [env.reset(seed=7)[0]]
    rewards = []
    for action in actions:
        next_obs, reward, *_ = env.step(action)
        obs.append(next_obs)
        rewards.append(reward)
    np.testing.assert_array_equal(np.stack(obs), np.stack(flat).astype(np.float32))
    assert rewards == [s.reward for s in steps[1:]]


def test_a_scalar_observation_has_its_place():
    env = make_env("dm_control/humanoid-stand")
    obs, _ = env.reset(seed=0)
    observation = env.unwrapped.dm_env.task.get_observation(env.unwrapped.dm_env.physics)
    assert observation["head_height"].shape == ()
    place = list(observation).index("head_height")
    before = sum(np.size(value) for value in list(observation.values())[:place])
    assert obs[before] == np.float32(observation["head_height"])


def test_what_was_handed_out_is_not_overwritten():
    env = make_env("dm_control/pendulum-swingup")
    first = env.reset(seed=0)[0]
    kept = first.copy()
    env.step(np.ones(1))
    np.testing.assert_array_equal(first, kept)


def test_the_action_box_has_the_tasks_own_bounds():
    env = make_env("dm_control/quadruped-run")
    spec = env.unwrapped.dm_env.action_spec()
    np.testing.assert_array_equal(env.action_space.low, spec.minimum)
    np.testing.assert_array_equal(env.action_space.high, spec.maximum)
    assert env.action_space.high.max() == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("task", "kwargs", "steps"),
    [
        ("dog-stand", {}, 1000),
        ("humanoid-stand", {}, 1000),
        ("cartpole-swingup", {"time_limit": 0.1}, 10),
        ("cheetah-run", {"time_limit": 0.07}, 8),  # 0.07 / 0.01 is above 7 in floating point
        ("walker-run", {"time_limit": 0.07}, 3),  # 0.025 s a step
        ("pendulum-swingup", {"environment_kwargs": {"control_timestep": 0.1}}, 200),
    ],
)
def test_the_time_limit_is_known_and_truncates(task, kwargs, steps):
    environment = make(f"dm_control/{task}", kwargs)
    assert environment.max_episode_steps == steps
    environment.reset(seed=0)
    action = np.zeros(environment.action_dim)
    for step in range(1, steps + 1):
        result = environment.step(action)
        assert (result.terminated, result.truncated) == (False, step == steps)


def test_an_end_with_discount_zero_terminates(monkeypatch):
    env = make_env("dm_control/cartpole-balance")
    env.reset(seed=0)
    assert env.step(np.zeros(1))[2:4] == (False, False)
    monkeypatch.setattr(env.unwrapped.dm_env.task, "get_termination", lambda physics: 0.0)
    assert env.step(np.zeros(1))[2:4] == (True, False)
    with pytest.raises(DimeError, match="episode is over"):
        env.step(np.zeros(1))


def test_actuators_without_limits_are_refused():
    env = make_env("dm_control/lqr-lqr_2_1")
    assert env.unwrapped.max_episode_steps is None
    with pytest.raises(DimeError, match="not finite"):
        Environment(env, "dm_control/lqr-lqr_2_1")


def test_closing_twice_is_harmless():
    environment = make("dm_control/cartpole-balance")
    environment.close()
    environment.close()
