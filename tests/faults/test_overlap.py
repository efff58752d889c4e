"""Learning while the environments step: what is learnt, and that nothing of it is lost."""

import dataclasses

import numpy as np
import pytest

from dime.envs.environment import Environment
from dime.training.host.learners import HostLearners, OverlapLearners
from dime.training.presets import make_config
from tests.training.runs import (
    OPTIONS,
    agent_of,
    arrays_of,
    assert_finite,
    assert_same_run,
    position_of,
    resume,
    shared_programs,
    start,
    status_of,
)
from tests.training.walk import Walk, at, walks

CONFIG = make_config("walk", **(OPTIONS | {"env_kwargs": {}}))
FIRST = CONFIG.training.num_random_steps + 1  # env step that learns


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run with overlap that nobody disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert start(folder, overlap=True).state == "finished"
    return folder


def after(num_steps, **options):
    """Learners of one seed after so many steps, and their environment."""
    walk = Walk()
    training = dataclasses.replace(CONFIG.training, **options)
    with shared_programs():
        kind = OverlapLearners if training.overlap else HostLearners
        learners = kind(
            training, agent_of(CONFIG), {0: Environment(walk)}, lambda: Environment(Walk())
        )
        learners.compile()
        learners.begin()
        for _ in range(num_steps):
            assert learners.step(1) == []
    return learners, walk


def test_an_env_step_is_learnt_during_the_next_one():
    """The same updates on the same minibatches, one env step later."""
    aside, walk = after(FIRST + 1, overlap=True)
    before, _ = after(FIRST)
    assert (aside.update, before.update) == (2, 2)
    state = before.snapshot()[0]
    for name, array in aside.snapshot()[0].items():
        np.testing.assert_allclose(array, state[name], rtol=1e-4, atol=1e-6, err_msg=name)
    untrained = after(FIRST, overlap=True)[0]
    assert untrained.update == 0 and untrained.metrics is None
    rows = aside.replay
    for number, (obs, action, reward, next_obs, *_) in enumerate(walk.log):
        for name, value in (("obs", obs), ("action", action), ("next_obs", next_obs)):
            np.testing.assert_array_equal(getattr(rows, name)[0, number], value)
        assert rows.reward[0, number] == np.float32(reward)


def test_updates_less_often_than_env_steps_lag_too():
    every = {"overlap": True, "env_steps_per_update": 5}
    assert [after(steps, **every)[0].update for steps in (15, 16, 20, 21)] == [0, 2, 2, 4]


@pytest.mark.promise("R2")
@pytest.mark.parametrize("step", [12, FIRST, 14, 30, 47])
def test_stopped_and_resumed_is_as_undisturbed(step, tmp_path, brake, undisturbed):
    result = start(tmp_path / "run", walks(at(0, step, brake)), overlap=True)
    assert (result.state, result.env_step) == ("interrupted", step)
    assert resume(tmp_path / "run").state == "finished"
    assert_same_run(tmp_path / "run", undisturbed)


@pytest.mark.promise("R2")
def test_a_longer_run_is_as_one_that_was_planned_so(tmp_path, undisturbed):
    start(tmp_path / "run", overlap=True, num_env_steps=32)
    assert resume(tmp_path / "run", num_env_steps=48).state == "finished"
    one, other = arrays_of(tmp_path / "run"), arrays_of(undisturbed)
    assert set(one) == set(other)
    for name, array in other.items():
        np.testing.assert_array_equal(one[name], array, err_msg=name)


def broken():
    raise OSError("unplugged")


@pytest.mark.promise("R7")
@pytest.mark.parametrize("step", [23, 30])  # 30: then a line of metrics is due
def test_a_failing_environment_does_not_make_its_learner_learn_twice(step, tmp_path, undisturbed):
    result = start(tmp_path / "run", walks(at(0, step, broken)), overlap=True)
    assert (result.state, result.env_step) == ("failed", step - 1)
    position = position_of(tmp_path / "run")
    assert (position["learnt_env_step"], position["updates"]) == (step - 1, 2 * (step - FIRST))
    assert resume(tmp_path / "run").state == "finished"
    assert_same_run(tmp_path / "run", undisturbed)


@pytest.mark.promise("R6")
def test_a_parameter_that_is_no_number_stops_the_run(tmp_path, poison, monkeypatch, undisturbed):
    poison(26, 0)
    result = start(tmp_path / "run", overlap=True)
    assert (result.state, result.env_step) == ("failed", 25)
    assert result.reason == "seed 0: weight became NaN or infinite at env step 25"
    assert_finite(arrays_of(tmp_path / "run"))
    monkeypatch.undo()
    assert resume(tmp_path / "run").state == "finished"
    assert_same_run(tmp_path / "run", undisturbed)


@pytest.mark.promise("R6")
def test_of_two_seeds_the_one_that_is_poisoned_goes(tmp_path, poison):
    poison(26, 7)
    result = start(tmp_path / "run", overlap=True, seeds=[0, 7])
    assert (result.state, result.env_step) == ("failed", 48)
    assert list(status_of(tmp_path / "run")["failed_seeds"]) == ["7"]


@pytest.mark.promise("R6")
def test_of_two_seeds_the_one_whose_environment_fails_goes(tmp_path):
    result = start(tmp_path / "run", walks(at(1, 23, broken)), overlap=True, seeds=[0, 7])
    assert (result.state, result.env_step) == ("failed", 48)
    assert list(status_of(tmp_path / "run")["failed_seeds"]) == ["7"]


def test_the_updates_are_sent_off_before_the_environment_steps_and_awaited_after(monkeypatch):
    order = []

    def note(owner, name):
        method = getattr(owner, name)

        def noted(*arguments):
            order.append(name)
            return method(*arguments)

        monkeypatch.setattr(owner, name, noted)

    note(OverlapLearners, "_keep")
    note(OverlapLearners, "_step_environments")
    note(OverlapLearners, "_poisoned")
    note(OverlapLearners, "_store_and_act")
    after(FIRST + 1, overlap=True)
    last = order[order.index("_keep") :]
    assert last == ["_keep", "_step_environments", "_poisoned", "_store_and_act", "_poisoned"]


def test_an_action_that_is_no_number_stops_the_run(tmp_path, monkeypatch):
    choose = HostLearners._choose_actions

    def spoilt(learners):
        choose(learners)
        if learners.env_step == 20:
            learners._actions = learners._actions * np.nan

    monkeypatch.setattr(HostLearners, "_choose_actions", spoilt)
    result = start(tmp_path / "run", overlap=True)
    assert result.state == "failed" and "action became NaN" in result.reason
    assert position_of(tmp_path / "run")["env_step"] == 15
