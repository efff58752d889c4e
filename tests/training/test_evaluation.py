"""Episodes played side by side: whose action goes where, when each ends, what is told of them."""

import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit

from dime.envs.environment import Environment
from dime.training.host.evaluation import (
    EpisodeError,
    play_episodes,
    run_episodes,
    summary,
    time_limit_warning,
)
from tests.envs.stub import Stub


def environments(*lengths, **more):
    """Stubs whose episodes end after these numbers of steps."""
    return [Environment(Stub({n: {"terminated": True} | more})) for n in lengths]


def nothing(obs, step):
    return np.zeros((*obs.shape[:2], 1), np.float32)


def test_each_episode_is_played_to_its_own_end():
    results = run_episodes(environments(2, 5, 3, 1), [[10, 11], [12, 13]], nothing)
    assert [[r.length for r in group] for group in results] == [[2, 5], [3, 1]]
    assert [[r.episode_return for r in group] for group in results] == [[2.0, 5.0], [3.0, 1.0]]
    assert [[r.seed for r in group] for group in results] == [[10, 11], [12, 13]]


def test_an_environment_without_a_time_limit_is_warned_of():
    said = time_limit_warning(Environment(Stub(), "Endless-v0"))
    for part in ("Endless-v0 declares no time limit", "10,000 steps", "max_episode_steps=1000"):
        assert part in said
    assert time_limit_warning(Environment(TimeLimit(Stub(), 5))) is None


def test_actions_go_to_the_episode_they_were_chosen_for():
    made = environments(3, 3, 3, 3)
    steps = []

    def choose(obs, step):
        assert obs.shape == (2, 2, 2)
        np.testing.assert_array_equal(obs, np.full((2, 2, 2), step))
        steps.append(step)
        return (np.arange(4.0).reshape(2, 2, 1) / 10 + step / 100).astype(np.float32)

    run_episodes(made, [[0, 1], [2, 3]], choose)
    assert steps == [0, 1, 2]
    for index, env in enumerate(made):
        expected = [[2.0 * (index / 10 + step / 100)] for step in steps]  # the box is [-2, 2]
        np.testing.assert_allclose(env.env.unwrapped.actions, expected, rtol=1e-6)


def test_an_episode_that_has_ended_is_stepped_no_more():
    made = environments(1, 4)
    run_episodes(made, [[0, 1]], nothing)
    assert [len(env.env.unwrapped.actions) for env in made] == [1, 4]


def test_episodes_advance_a_step_at_a_time():
    made = environments(9)
    episodes = play_episodes(made, [[0]], nothing)
    assert [next(episodes) for _ in range(3)] == [None] * 3
    assert len(made[0].env.unwrapped.actions) == 2


def test_an_environment_that_fails_is_told_with_its_agent():
    class Failing(Stub):
        def step(self, action):
            raise RuntimeError("out of order")

    made = [*environments(3, 3), Environment(Failing()), *environments(3)]
    with pytest.raises(EpisodeError) as caught:
        run_episodes(made, [[0, 1], [2, 3]], nothing)
    assert caught.value.agent == 1
    assert isinstance(caught.value.cause, RuntimeError)


def test_an_endless_episode_is_cut(monkeypatch):
    monkeypatch.setattr("dime.training.host.evaluation.MAX_EPISODE_STEPS", 12)
    ((result,),) = run_episodes([Environment(Stub())], [[0]], nothing)
    assert result.length == 12


def test_success_at_any_step_and_at_the_last():
    answers = {1: {"info": {"success": True}}, 2: {"info": {"success": False}, "truncated": True}}
    never = {1: {"info": {"success": False}}, 2: {"info": {"success": False}, "truncated": True}}
    made = [Environment(Stub(answers)), Environment(Stub(never))]
    (results,) = run_episodes(made, [[0, 1]], nothing)
    told = summary(results)
    assert told["success_any"] == [True, False]
    assert told["success_last"] == [False, False]


def test_a_summary_without_success():
    (results,) = run_episodes(environments(2, 3), [[5, 6]], nothing)
    assert summary(results) == {
        "returns": [2.0, 3.0],
        "lengths": [2, 3],
        "success_any": None,
        "success_last": None,
        "episode_seeds": [5, 6],
    }
