import gymnasium
import numpy as np
import pytest
from scipy import stats

from dime.envs import MultiGoal, make, two_mode_log_density


def test_the_bandits_density_is_the_mixture():
    grid = np.linspace(-1.0, 1.0, 2001)
    mixture = 0.3 * stats.norm.pdf(grid, -0.5, 0.1) + 0.7 * stats.norm.pdf(grid, 0.5, 0.1)
    density = np.exp(two_mode_log_density(grid))
    np.testing.assert_allclose(density, mixture, rtol=1e-6)
    assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-9)
    assert np.trapezoid(density[:1001], grid[:1001]) == pytest.approx(0.3, abs=1e-6)
    assert two_mode_log_density(np.zeros((4, 5))).shape == (4, 5)


@pytest.mark.parametrize("action", [-1.0, -0.5, 0.0, 0.3, 1.0])
def test_the_bandits_reward_is_the_log_density(action):
    environment = make("dime/TwoModeBandit-v0")
    assert environment.max_episode_steps == 1
    obs = environment.reset(seed=0)
    result = environment.step(np.float32([action]))
    assert result.reward == pytest.approx(
        two_mode_log_density(np.array(np.float32(action))), rel=1e-12
    )
    assert result.terminated and not result.truncated
    np.testing.assert_array_equal(obs, result.obs)


def walk(environment, action, steps=30, seed=0):
    environment.reset(seed)
    results = []
    for _ in range(steps):
        results.append(environment.step(action))
        if results[-1].terminated or results[-1].truncated:
            break
    return results


@pytest.mark.parametrize("direction", [(1, 0), (-1, 0), (0, 1), (0, -1)])
def test_reaching_a_goal_terminates_with_success(direction):
    results = walk(make("dime/MultiGoal-v0"), np.float32(direction))
    assert len(results) in (4, 5)  # the start is random
    assert [r.success for r in results] == [False] * (len(results) - 1) + [True]
    assert results[-1].terminated and not results[-1].truncated
    assert -100 < sum(r.reward for r in results) < 10


def test_staying_is_truncated_after_thirty_steps():
    results = walk(make("dime/MultiGoal-v0"), np.zeros(2), steps=40)
    assert len(results) == 30
    assert results[-1].truncated and not results[-1].terminated
    assert sum(r.reward for r in results) == pytest.approx(-75, abs=5)


def test_the_four_goals_are_equally_good():
    env = MultiGoal()
    returns = []
    for direction in np.float32([(1, 0), (0, 1), (-1, 0), (0, -1)]):
        env.reset(seed=0)
        env._path = [np.zeros(2)]
        total, done = 0.0, False
        while not done:
            _, reward, done, _, _ = env.step(direction * 0.9)
            total += reward
        returns.append(total)
    np.testing.assert_allclose(returns, returns[0])


def test_the_reward_by_hand():
    env = MultiGoal()
    env.reset(seed=0)
    env._path = [np.array([1.0, 0.0])]
    _, reward, _, _, info = env.step(np.array([0.5, 0.5]))
    assert reward == pytest.approx(-0.1 * ((3.5**2 + 0.5**2) + 30 * 0.5))
    assert info["position"].tolist() == [1.5, 0.5] and info["success"] is False
    env._path = [np.array([3.9, 0.0])]
    _, reward, terminated, _, _ = env.step(np.array([0.2, 0.0]))
    assert terminated and reward == pytest.approx(10 - 0.1 * (0.9**2 + 30 * 0.04))


def test_the_plane_is_bounded_and_the_start_seeded():
    env = MultiGoal()
    starts = np.stack([env.reset(seed=seed)[0] for seed in range(300)])
    np.testing.assert_array_equal(starts[7], env.reset(seed=7)[0])
    assert starts.std() == pytest.approx(0.1, rel=0.15)
    for _ in range(20):
        obs = env.step(np.ones(2))[0]
    assert obs.tolist() == [7.0, 7.0] and env.observation_space.contains(obs)


@pytest.mark.parametrize("id", ["dime/TwoModeBandit-v0", "dime/MultiGoal-v0"])
def test_pictures(id):
    environment = make(id, render=True)
    environment.reset(seed=0)
    before = environment.render()
    environment.step(np.full(environment.action_dim, 0.5))
    after = environment.render()
    assert before.dtype == np.uint8 and before.shape == (256, 256, 3)
    assert len(np.unique(before.reshape(-1, 3), axis=0)) > 1
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("id", ["dime/TwoModeBandit-v0", "dime/MultiGoal-v0"])
def test_they_keep_gymnasiums_contract(id):
    from gymnasium.utils.env_checker import check_env

    check_env(gymnasium.make(id, render_mode="rgb_array").unwrapped)
