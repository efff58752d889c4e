"""Agents and environments side by side: what goes where, and back into a checkpoint's place."""

import dataclasses

import jax
import numpy as np
import pytest

import dime.training.host.learners
from dime.envs.environment import Environment
from dime.training.checkpoint.writer import CheckpointFolder
from dime.training.faults import state_of
from dime.training.host.learners import HostLearners
from dime.training.presets import make_config
from tests.training.runs import OPTIONS, agent_of, shared_programs, start
from tests.training.walk import Walk, at, walks

CONFIG = make_config("walk", **(OPTIONS | {"env_kwargs": {}}))


@pytest.fixture(autouse=True)
def compiled_once():
    with shared_programs():
        yield


def learners_of(environments, seeds, checkpoint=None):
    training = dataclasses.replace(CONFIG.training, seeds=tuple(seeds))
    made = {seed: Environment(env) for seed, env in zip(seeds, environments, strict=True)}
    return HostLearners(training, agent_of(CONFIG), made, lambda: Environment(Walk()), checkpoint)


def begun(environments, seeds, checkpoint=None):
    learners = learners_of(environments, seeds, checkpoint)
    learners.compile()
    assert learners.begin() == []
    return learners


def replay_rows(learners, index):
    return jax.tree.map(lambda leaf: np.asarray(leaf[index]), learners.replay)


def test_every_step_of_the_environment_is_stored_as_it_was():
    walk = Walk()
    learners = begun([walk], [3])
    for _ in range(18):  # 12 of random actions, 6 that learn; the ring has 20 rows
        assert learners.step(1) == []
    rows = replay_rows(learners, 0)
    assert any(truncated for *_, truncated in walk.log)
    for number, (obs, action, reward, next_obs, terminated, _) in enumerate(walk.log):
        np.testing.assert_array_equal(rows.obs[number], obs)
        np.testing.assert_array_equal(rows.action[number], action)
        np.testing.assert_array_equal(rows.next_obs[number], next_obs)
        assert rows.reward[number] == np.float32(reward)
        assert rows.terminated[number] == terminated
    assert not rows.obs[18:].any()
    assert (learners.env_step, learners.update) == (18, 12)


def test_the_first_actions_are_random_and_the_state_stays():
    learners = begun([Walk()], [0])
    before = learners.snapshot()[0]
    for _ in range(12):
        learners.step(1)
    assert learners.metrics is None and learners.update == 0
    for name, array in learners.snapshot()[0].items():
        np.testing.assert_array_equal(array, before[name])
    learners.step(1)
    assert learners.update == 2 and learners.metrics is not None
    assert any((array != before[name]).any() for name, array in learners.snapshot()[0].items())


def test_each_seed_has_its_own_environment_and_replay():
    made = [Walk(), Walk()]
    learners = begun(made, [0, 7])
    for _ in range(14):
        learners.step(1)
    for index, walk in enumerate(made):
        rows = replay_rows(learners, index)
        np.testing.assert_array_equal(rows.obs[:14], [row[0] for row in walk.log])
    assert not np.array_equal(made[0].log[0][0], made[1].log[0][0])


def test_a_seed_that_fails_is_taken_out_and_the_others_keep_what_they_had():
    def broken():
        raise RuntimeError("out of order")

    factory = walks(at(0, 15, broken))
    made = [factory(), factory()]
    learners = begun(made, [0, 7])
    for _ in range(14):
        learners.step(1)
    before = state_of(learners.state, 1)
    (failure,) = learners.step(1)
    assert failure.seed == 0 and learners.seeds == [7] and len(learners.streams) == 1
    assert (failure.env_step, failure.poisoned) == (14, False)
    assert "out of order" in failure.reason and "broken" in failure.details
    assert learners.env_step == 15  # the other one took the step
    np.testing.assert_array_equal(
        replay_rows(learners, 0).obs[:15], [row[0] for row in made[1].log]
    )
    assert set(state_of(learners.state, 0)) == set(before)
    assert learners.step(1) == []


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint in the middle of an episode, at env step 30."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    with shared_programs():
        start(folder, callback=lambda record: record["env_step"] == 30)
    return CheckpointFolder(folder / "checkpoints").load_newest()[0]


def test_restored_learners_take_the_action_that_was_chosen_before(saved):
    chosen = np.array([0.25, -0.5], np.float32)
    forged = dataclasses.replace(saved, episodes=saved.episodes | {"0/next_action": chosen})
    walk = Walk()
    learners = begun([walk], [0], forged)
    learners.step(1)
    np.testing.assert_array_equal(walk.log[-1][1], chosen)


def test_a_snapshot_of_restored_learners_is_what_they_were_restored_from(saved):
    learners = begun([Walk()], [0], saved)
    state, episodes = learners.snapshot()
    for mine, theirs in ((state, saved.state), (episodes, saved.episodes)):
        assert set(mine) == set(theirs)
        for name, array in theirs.items():
            np.testing.assert_array_equal(mine[name], array)
    assert (learners.env_step, learners.update) == (saved.env_step, saved.run.updates)
    assert (learners.seeds, learners.episodes()) == (saved.run.seeds, saved.run.episodes)


def test_programs_are_compiled_when_the_loop_says_so_and_for_survivors(monkeypatch):
    compiled = []
    programs = dime.training.host.learners.Programs

    def watched(*arguments):
        compiled.append(arguments[-1])
        return programs(*arguments)

    monkeypatch.setattr(dime.training.host.learners, "Programs", watched)
    factory = walks(at(0, 3, lambda: {"reward": np.nan}))
    learners = learners_of([factory(), factory()], [0, 7])
    assert compiled == []
    learners.compile()
    assert compiled == [2]
    learners.begin()
    for _ in range(3):
        learners.step(1)
    assert compiled == [2, 1]
