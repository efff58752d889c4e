"""R7: environments that raise are made anew and counted; past the limit the seed fails."""

import itertools

import numpy as np
import pytest

from dime.envs.environment import Environment
from dime.errors import DimeError
from dime.training.host.episodes import EpisodeStream
from dime.training.host.evaluation import evaluation_seeds
from tests.training.flaky import Chance, Flaky, Slipped
from tests.training.runs import (
    arrays_of,
    assert_finite,
    assert_no_record_twice,
    assert_same_arrays,
    assert_same_run,
    position_of,
    read_lines,
    resume,
    start,
    status_of,
    without_times,
)
from tests.training.walk import Walk, at, steps_of_the_trial, walks

pytestmark = pytest.mark.promise("R7")


def slip():
    raise Slipped("the floor is wet")


def flaky_stream(seed, one_in, limit):
    chance = Chance(seed)

    def build():
        return Flaky(chance, one_in)

    while True:
        try:
            env = Environment(build(), "Flaky", build)
            break
        except Slipped:
            chance.faults -= 1  # the first one is made by who starts the run
    return EpisodeStream(env, seed, limit, {}, True), chance


def play(stream, log, num_episodes, seed=0):
    """Steps until so many episodes have ended; every transition is one of the environment's."""
    actions = np.random.default_rng(seed)
    acting = stream.obs
    ended = 0
    while ended < num_episodes:
        before = stream.last_length, stream.last_return, stream.number
        action = actions.uniform(-1, 1, 2).astype(np.float32)
        observed = stream.step(action)
        obs, taken, reward, next_obs, terminated, _ = log[-1]
        np.testing.assert_array_equal(observed.obs, obs)
        np.testing.assert_array_equal(observed.action, taken)
        np.testing.assert_array_equal(observed.next_obs, next_obs)
        assert (observed.reward, observed.terminated) == (np.float32(reward), terminated)
        if stream.number == before[2]:  # else it was another episode's first step
            np.testing.assert_array_equal(acting, obs)
        acting = stream.obs
        ended += (stream.last_length, stream.last_return) != before[:2]
    return ended


@pytest.mark.parametrize("seed", range(3))
def test_hundreds_of_episodes_with_faults_in_steps_resets_and_while_being_made(
    seed, record_property
):
    stream, chance = flaky_stream(seed, one_in=20, limit=10**6)
    stream.begin()
    assert play(stream, chance.log, 350, seed) >= 350
    record_property("tries", chance.faults)
    events = stream.fetch_warnings()
    assert stream.restarts[str(stream.seed)] == chance.faults == len(events) > 100
    assert all(f"({count} of" in event for count, event in enumerate(events, 1))


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_past_the_limit_the_error_is_raised(limit):
    stream, chance = flaky_stream(0, one_in=20, limit=limit)
    stream.begin()
    with pytest.raises(Slipped):
        play(stream, chance.log, 10_000)
    assert len(stream.fetch_warnings()) == limit and chance.faults == limit + 1


def test_a_last_transition_is_kept_where_the_next_reset_fails():
    class Jams(Walk):
        made = itertools.count()

        def __init__(self):
            super().__init__()
            self.jams = next(self.made) == 0

        def reset(self, *, seed=None, options=None):
            if self.jams and self.reset_seeds:
                slip()
            return super().reset(seed=seed)

    env = Environment(Jams(), "Jams", Jams)
    first = env.env
    stream = EpisodeStream(env, 3, 1, {}, True)
    stream.begin()
    steps = 0
    while stream.last_length is None:
        observed = stream.step(np.zeros(2, np.float32))
        steps += 1
    np.testing.assert_array_equal(observed.next_obs, first.log[-1][3])
    assert (stream.last_length, stream.restarts) == (steps, {"3": 1})
    np.testing.assert_array_equal(stream.obs, env.env.position.astype(np.float32))


def test_what_breaks_the_rules_is_no_reason_for_another_try():
    stream = EpisodeStream(Environment(Walk()), 0, 3, {}, True)
    assert not stream.take_restart(DimeError("NaN"))
    assert (stream.restarts, stream.fetch_warnings()) == ({}, [])


@pytest.mark.parametrize("step", [5, 22])  # random actions, learning
def test_a_run_goes_on_and_shows_the_environments_own_traceback(step, tmp_path, capsys):
    result = start(tmp_path / "run", walks(at(0, step, slip)), progress=True, max_env_restarts=3)
    assert (result.state, result.env_step) == ("finished", 48)
    status = status_of(tmp_path / "run")
    assert status["env_restarts"] == {"0": 1} and status["failed_seeds"] == {}
    printed = capsys.readouterr().out
    for shown in ("Slipped: the floor is wet", "in slip", "(1 of 3 times)", "the episode is cut"):
        assert shown in printed
    assert_finite(arrays_of(tmp_path / "run"))
    assert_no_record_twice(tmp_path / "run")
    # One transition for each env step, the one of the fault too.
    replay = [name for name in arrays_of(tmp_path / "run") if name.endswith("/reward")]
    assert len(replay) == 20


def test_past_the_limit_the_run_saves_and_fails(tmp_path):
    def always(walk):
        evaluates = walk.number in (1, 2)
        return slip() if walk.total_steps == 5 and not evaluates else None

    result = start(tmp_path / "run", walks(always), max_env_restarts=2)
    assert result.state == "failed" and "the floor is wet" in result.reason
    status = status_of(tmp_path / "run")
    assert status["env_restarts"] == {"0": 2}
    assert status["failed_seeds"]["0"]["env_step"] == result.env_step == 12
    assert position_of(tmp_path / "run")["env_step"] == 12
    assert resume(tmp_path / "run").state == "finished"
    assert status_of(tmp_path / "run")["env_restarts"] == {"0": 2}


def test_stopped_after_a_restart_and_resumed_is_as_undisturbed(tmp_path, brake):
    def faulty_until(stop):
        def before_step(walk):
            if (walk.number, walk.total_steps) == (0, 14):
                slip()
            # The third walk replaces the first; two evaluate. Env step 25 is its twelfth step.
            return brake() if stop and (walk.number, walk.total_steps) == (3, 12) else None

        return walks(before_step)

    for name, stop in (("whole", False), ("run", True)):
        result = start(tmp_path / name, faulty_until(stop), max_env_restarts=1)
        assert result.state == ("interrupted" if stop else "finished")
    assert resume(tmp_path / "run").state == "finished"
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_failed_evaluation_is_repeated(tmp_path, straight):
    slipping = walks(at(1, steps_of_the_trial() + 9, slip))
    result = start(tmp_path / "run", slipping, max_env_restarts=1)
    assert result.state == "finished"
    assert status_of(tmp_path / "run")["env_restarts"] == {"0": 1}
    mine, others = (
        without_times(read_lines(run / "evaluations.jsonl")) for run in (tmp_path / "run", straight)
    )
    assert mine == others


@pytest.mark.parametrize("limit, state", [(1, "finished"), (0, "failed")])
def test_an_evaluation_environment_that_cannot_be_made(limit, state, tmp_path, straight):
    """The third of them: one trains, and the second that evaluates fails once."""
    made = itertools.count()

    def make():
        if next(made) == 2:
            slip()
        return Walk()

    result = start(tmp_path / "run", make, max_env_restarts=limit)
    assert result.state == state
    if limit:
        assert status_of(tmp_path / "run")["env_restarts"] == {"0": 1}
        assert_same_arrays(arrays_of(tmp_path / "run"), arrays_of(straight))
    else:
        assert "the floor is wet" in result.reason


def test_restarts_used_up_right_after_a_checkpoint_are_saved(tmp_path):
    def always(walk):  # the first walk makes 15 steps and is saved; its successors make none
        steps = 16 if walk.number == 0 else 1
        return slip() if walk.total_steps == steps and walk.number not in (1, 2) else None

    result = start(tmp_path / "run", walks(always), max_env_restarts=2)
    assert (result.state, result.env_step) == ("failed", 15)
    assert position_of(tmp_path / "run")["env_restarts"] == {"0": 2}
    # None are left, until more are allowed.
    assert resume(tmp_path / "run", walks(at(0, 1, slip))).state == "failed"
    again = resume(tmp_path / "run", walks(at(0, 1, slip)), max_env_restarts=3)
    assert again.state == "finished"
    assert status_of(tmp_path / "run")["env_restarts"] == {"0": 3}


def test_each_seed_counts_its_own(tmp_path):
    fault = {(0, 5), (1, 23)}

    def before_step(walk):
        return slip() if (walk.number, walk.total_steps) in fault else None

    result = start(tmp_path / "run", walks(before_step), seeds=[0, 1], max_env_restarts=1)
    assert result.state == "finished"
    assert status_of(tmp_path / "run")["env_restarts"] == {"0": 1, "1": 1}
    seeds = evaluation_seeds(1, 48, 2)
    last = read_lines(tmp_path / "run" / "evaluations.jsonl")[-1]
    assert last["episode_seeds"] == seeds


def test_a_seed_that_has_used_its_restarts_up_has_none_after_a_resume(tmp_path, brake):
    """Of seeds whose numbers are not their places."""

    def before_step(walk):
        at_this = (walk.number, walk.total_steps)
        return {(0, 14): slip, (1, 25): brake}.get(at_this, lambda: None)()

    part = start(tmp_path / "run", walks(before_step), seeds=[7, 3], max_env_restarts=1)
    assert (part.state, part.env_step) == ("interrupted", 25)
    resume(tmp_path / "run", walks(at(0, 20, slip)))
    status = status_of(tmp_path / "run")
    assert (status["env_step"], status["env_restarts"]) == (48, {"7": 1})
    assert set(status["failed_seeds"]) == {"7"}
