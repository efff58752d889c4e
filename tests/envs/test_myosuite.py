import gymnasium
import numpy as np
import pytest

from dime.envs import make, make_env

pytest.importorskip("myosuite")

IDS = [
    "myoHandObjHoldRandom-v0",
    "myoHandReachRandom-v0",
    "myoHandKeyTurnRandom-v0",
    "myoHandPenTwirlRandom-v0",
    # These keep a past, each in a way of its own.
    "MyoHandCubesmallRandom-v0",
    "myoChallengeBaodingP1-v1",
    "myoChallengeChaseTagP1-v0",
    "myoFatiChallengeDieReorientP1-v0",
]


def episode(environment, seed, steps=12):
    actions = np.random.default_rng(seed).uniform(-1, 1, (steps, environment.action_dim))
    obs, rewards = [environment.reset(seed)], []
    for action in actions:
        result = environment.step(action)
        obs.append(result.obs)
        rewards.append(result.reward)
        if result.terminated or result.truncated:
            break
    return np.stack(obs), np.array(rewards)


@pytest.mark.parametrize("id", IDS)
def test_an_episode_follows_from_seed_and_actions_bit_for_bit(id):
    environment = make(id)
    first, other, again = (episode(environment, seed) for seed in (1, 2, 1))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0][-1], other[0][-1])
    fresh = episode(make(id), 1)
    np.testing.assert_array_equal(first[0], fresh[0])
    np.testing.assert_array_equal(first[1], fresh[1])


def test_an_environment_that_a_factory_makes_is_seeded_too():
    def factory():
        return gymnasium.make("myoHandReachRandom-v0", disable_env_checker=True)

    with pytest.warns(UserWarning):  # Gymnasium's remarks on float32 bounds: the factory's affair
        environment = make(factory)
    direct = make("myoHandReachRandom-v0")
    np.testing.assert_array_equal(environment.reset(3), direct.reset(3))
    np.testing.assert_array_equal(environment.reset(3), environment.reset(3))


def test_the_time_limit_truncates():
    environment = make("myoHandKeyTurnRandom-v0", {"max_episode_steps": 3})
    environment.reset(0)
    for _ in range(2):
        assert not environment.step(np.zeros(39)).truncated
    result = environment.step(np.zeros(39))
    assert result.truncated and not result.terminated
    assert result.success is False


def test_credits_are_not_printed_among_a_commands_output(capsys):
    make_env("myoHandReachRandom-v0")
    assert capsys.readouterr().out == ""


def test_modules_of_myosuite_are_seeded_under_any_name():
    environment = make("myosuite:myoHandReachRandom-v0")
    np.testing.assert_array_equal(environment.reset(3), environment.reset(3))
