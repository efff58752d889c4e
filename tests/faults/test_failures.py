"""What fails is named, kept, and never hidden; other seeds go on."""

import dataclasses
import itertools
import json
import os
import sys

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import dime
import dime.training.host.learners
from dime.algorithms.registry import ALGORITHMS
from dime.envs.environment import Environment
from dime.errors import DimeError
from dime.training.config import RunConfig, TrainingConfig
from dime.training.host.episodes import why_not_repeatable
from dime.training.run import resume_run, start_run
from tests.training.runs import (
    OPTIONS,
    SCHEDULE,
    arrays_of,
    assert_finite,
    assert_no_record_twice,
    assert_same_arrays,
    assert_same_run,
    checkpoints,
    position_of,
    read_lines,
    resume,
    shared_programs,
    start,
    status_of,
)
from tests.training.toy import TOY, ToyConfig, toy
from tests.training.walk import Walk, at, walks

pytestmark = pytest.mark.promise("R6")

NAN, INF = float("nan"), float("inf")
THREE = [0, 1, 2]  # seeds; the walks 0 to 2 train, the others evaluate


class Broken(Exception):
    """What a user's environment may raise."""


def broken():
    raise Broken("the gripper came off")


def only_failure(run_dir):
    """The one failed seed of a run and what status.json says of it."""
    ((seed, failure),) = status_of(run_dir)["failed_seeds"].items()
    return int(seed), failure


@pytest.mark.parametrize(
    "quantity, answer",
    [
        ("observation", {"obs": np.array([0.0, NAN], np.float32)}),
        ("observation", {"obs": np.array([-INF, 0.0], np.float32)}),
        ("reward", {"reward": NAN}),
        ("reward", {"reward": INF}),
    ],
)
@pytest.mark.parametrize("step", [5, 22])  # random actions, learning
def test_a_number_that_is_none_stops_the_run(quantity, answer, step, tmp_path, straight):
    result = start(tmp_path / "run", walks(at(0, step, lambda: answer)))
    assert (result.state, result.env_step, result.signal) == ("failed", step - 1, None)
    status = status_of(tmp_path / "run")
    assert (status["state"], status["env_step"]) == ("failed", step - 1)
    for part in ("seed 0", "Walk", f"non-finite {quantity}", f"env step {step - 1}"):
        assert part in status["reason"] == result.reason
    # What came before it is kept, and nothing of it.
    arrays = arrays_of(tmp_path / "run")
    assert position_of(tmp_path / "run")["env_step"] == step - 1
    assert_finite(arrays)
    assert f"replay/{step - 2}/reward" in arrays
    assert f"replay/{step - 1}/reward" not in arrays
    # So the run can go on where the environment was mended, as if nothing had been.
    assert resume(tmp_path / "run").state == "finished"
    assert_same_run(tmp_path / "run", straight)


@pytest.mark.promise("R7", "R10")
def test_an_exception_shows_the_environments_own_traceback(tmp_path, capsys):
    env = walks(at(0, 22, broken))
    with shared_programs(), pytest.raises(dime.RunFailedError, match="came off") as caught:
        dime.train(env, run_dir=tmp_path / "run", **OPTIONS)
    assert caught.value.result.state == "failed"
    out = capsys.readouterr().out
    kept = (tmp_path / "run" / "failures" / "seed-0" / "traceback.txt").read_text()
    for shown in (out, kept):
        assert "in broken" in shown and "walk.py" in shown
        assert "Broken: the gripper came off" in shown
    reason = status_of(tmp_path / "run")["reason"]
    assert "Walk raised Broken: the gripper came off (after env step 21)" in reason


@pytest.mark.promise("R10")
def test_an_environment_that_exits_does_not_end_the_process(tmp_path):
    result = start(tmp_path / "run", walks(at(0, 22, lambda: sys.exit(0))))
    assert result.state == "failed" and "called sys.exit(0)" in result.reason
    assert position_of(tmp_path / "run")["env_step"] == 21


@pytest.mark.promise("R6")
def test_a_text_that_is_no_unicode_is_kept(tmp_path):
    def fail():
        raise Broken("no file " + os.fsdecode(b"\xff"))

    assert start(tmp_path / "run", walks(at(0, 22, fail))).state == "failed"
    kept = tmp_path / "run" / "failures" / "seed-0" / "traceback.txt"
    assert "no file \\udcff" in kept.read_text()


def test_evaluation_environments_of_other_spaces_are_refused(tmp_path):
    class Wide(Walk):
        def __init__(self):
            super().__init__()
            self.action_space = gymnasium.spaces.Box(-2.0, 2.0, (2,), np.float32)

    kinds = iter([Walk, Walk, Wide])
    with pytest.raises(DimeError, match="no longer those of the environment that trains"):
        start(tmp_path / "run", lambda: next(kinds)())
    assert status_of(tmp_path / "run")["state"] == "failed"


def test_an_environment_that_fails_while_its_episode_is_replayed(tmp_path, brake, straight):
    start(tmp_path / "run", walks(at(0, 23, brake)))
    assert position_of(tmp_path / "run")["env_step"] == 23
    failed = resume(tmp_path / "run", walks(at(0, 1, broken)))
    assert failed.state == "failed" and "came off" in failed.reason
    assert [path.name[-2:] for path in checkpoints(tmp_path / "run")] == ["15", "23"]
    assert resume(tmp_path / "run").state == "finished"
    assert_same_run(tmp_path / "run", straight)


def test_one_that_fails_while_it_is_replayed_leaves_the_others_alone(tmp_path, brake):
    start(tmp_path / "run", walks(at(0, 23, brake)), seeds=THREE)
    result = resume(tmp_path / "run", walks(at(1, 1, broken)))
    assert (result.state, result.env_step) == ("failed", 48)
    assert only_failure(tmp_path / "run")[0] == 1
    assert position_of(tmp_path / "run")["seeds"] == [0, 2]
    assert_finite(arrays_of(tmp_path / "run"))


@pytest.mark.parametrize(
    "number, step, fails",
    [(1, 5, broken), (1, 23, broken), (0, 22, lambda: {"reward": NAN}), (5, 12, broken)],
    ids=["at random actions", "while learning", "a reward", "in an evaluation"],
)
def test_the_other_seeds_go_on(number, step, fails, tmp_path):
    result = start(tmp_path / "run", walks(at(number, step, fails)), seeds=THREE)
    assert (result.state, result.env_step) == ("failed", 48)
    seed, failure = only_failure(tmp_path / "run")
    expected = number if number < 3 else (number - 3) // 2  # two walks evaluate each seed
    assert seed == expected
    assert f"seed {seed}: Walk" in result.reason
    left = [other for other in THREE if other != seed]
    assert position_of(tmp_path / "run")["seeds"] == left
    assert_finite(arrays_of(tmp_path / "run"))
    evaluations = read_lines(tmp_path / "run" / "evaluations.jsonl")
    last = [record for record in evaluations if record["env_step"] == 48]
    assert sorted({record["seed"] for record in last}) == left
    assert max(r["env_step"] for r in evaluations if r["seed"] == seed) <= failure["env_step"]
    kept = tmp_path / "run" / "failures" / f"seed-{seed}"
    assert json.loads((kept / "failure.json").read_text()) == {"seed": seed} | failure
    state = safetensors.numpy.load_file(kept / "state.safetensors")
    shapes = {name.removeprefix("state/"): array.shape[1:] for name, array in
              arrays_of(tmp_path / "run").items() if name.startswith("state/")}  # fmt: skip
    assert {name: array.shape for name, array in state.items()} == shapes
    assert_no_record_twice(tmp_path / "run")


def test_the_others_do_as_they_would_have(tmp_path):
    """Up to the failure all is the same; after it the others have the episodes they would have."""
    start(tmp_path / "run", walks(at(1, 23, broken)), seeds=THREE)
    start(tmp_path / "whole", seeds=THREE)
    mine, others = (
        {(r["env_step"], r["mode"], r["seed"]): r["returns"] for r in
         read_lines(tmp_path / name / "evaluations.jsonl")}
        for name in ("run", "whole")
    )  # fmt: skip
    for place, returns in mine.items():
        assert place[0] > 16 or returns == others[place]
    # The environments' own randomness does not depend on who is left.
    seeds = [
        [r["episode_seeds"] for r in read_lines(tmp_path / name / "evaluations.jsonl")
         if r["seed"] == 2]
        for name in ("run", "whole")
    ]  # fmt: skip
    assert seeds[0] == seeds[1]


def test_after_a_failed_evaluation_the_others_have_new_environments(tmp_path):
    closed = []

    def before_step(walk):
        if (walk.number, walk.total_steps) == (6, 1):
            closed.extend(one.closed for one in env.made)
        return at(5, 12, broken)(walk)

    env = walks(before_step)  # 0 and 1 train; 2 and 3 evaluate the first seed, 4 and 5 the other
    result = start(tmp_path / "run", env, seeds=[0, 7])
    assert (result.state, result.env_step) == ("failed", 48)
    assert only_failure(tmp_path / "run")[0] == 7
    assert closed == [False] * 2 + [True] * 4 + [False] * 2
    assert [one.closed for one in env.made] == [True] * 8
    evaluations = read_lines(tmp_path / "run" / "evaluations.jsonl")
    assert [(r["env_step"], r["mode"]) for r in evaluations if r["seed"] == 0] == list(
        itertools.product((0, 16, 32, 48), OPTIONS["evaluation_modes"])
    )


def test_an_environment_that_cannot_even_be_closed(tmp_path, monkeypatch, caplog):
    def cannot(walk):
        raise RuntimeError("cannot be closed")

    monkeypatch.setattr(Walk, "close", cannot)
    result = start(tmp_path / "run", walks(at(5, 12, broken)), seeds=[0, 7])
    assert (result.state, result.env_step) == ("failed", 48)
    assert only_failure(tmp_path / "run")[0] == 7
    assert "close() raised RuntimeError: cannot be closed" in caplog.text


def test_a_run_that_lost_a_seed_is_resumed(tmp_path, brake):
    def disturbed(walk):
        return at(1, 8, broken)(walk) or at(0, 27, brake)(walk)

    undisturbed = start(tmp_path / "straight", walks(at(1, 8, broken)), seeds=THREE)
    assert start(tmp_path / "run", walks(disturbed), seeds=THREE).state == "interrupted"
    assert list(status_of(tmp_path / "run")["failed_seeds"]) == ["1"]
    result = resume(tmp_path / "run")
    assert (result.state, result.reason) == ("failed", undisturbed.reason)
    assert_same_run(tmp_path / "run", tmp_path / "straight")


class Dead(Walk):
    """Cannot even be reset, if it is the first that is made."""

    made = 0
    dead = True

    def __init__(self):
        super().__init__(number=type(self).made)
        type(self).made += 1

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        return (obs * NAN if self.dead and self.number == 0 else obs), info


def test_an_environment_that_fails_at_its_first_reset(tmp_path, monkeypatch, straight):
    monkeypatch.setattr(Dead, "made", 0)
    result = start(tmp_path / "run", Dead)
    assert (result.state, result.env_step) == ("failed", 0)
    assert "non-finite observation" in result.reason and "step 0 of its episode" in result.reason
    monkeypatch.setattr(Dead, "dead", False)
    assert resume(tmp_path / "run", Dead).state == "finished"
    assert_same_arrays(arrays_of(tmp_path / "run"), arrays_of(straight))


def test_the_other_seeds_go_on_without_one_that_fails_at_its_first_reset(tmp_path, monkeypatch):
    monkeypatch.setattr(Dead, "made", 0)
    result = start(tmp_path / "run", Dead, seeds=THREE)
    assert (result.state, result.env_step) == ("failed", 48)
    assert only_failure(tmp_path / "run")[0] == 0
    assert position_of(tmp_path / "run")["seeds"] == [1, 2]


def test_when_the_last_seed_fails_the_run_ends(tmp_path):
    def before_step(walk):
        return at(0, 8, broken)(walk) or at(1, 25, broken)(walk)

    result = start(tmp_path / "run", walks(before_step), seeds=[0, 7])
    assert (result.state, result.env_step) == ("failed", 24)
    failed = status_of(tmp_path / "run")["failed_seeds"]
    assert {seed: failure["env_step"] for seed, failure in failed.items()} == {"0": 7, "7": 24}
    assert position_of(tmp_path / "run")["seeds"] == [7]
    # With a mended environment the seed that was left goes on; the other stays failed.
    result = resume(tmp_path / "run")
    assert (result.state, result.env_step) == ("failed", 48)
    assert list(status_of(tmp_path / "run")["failed_seeds"]) == ["0"]


def test_all_seeds_fail_at_once(tmp_path):
    def before_step(walk):
        return broken() if walk.number < 2 and walk.total_steps == 21 else None

    result = start(tmp_path / "run", walks(before_step), seeds=[0, 7])
    assert (result.state, result.env_step) == ("failed", 20)
    assert list(status_of(tmp_path / "run")["failed_seeds"]) == ["0", "7"]
    assert resume(tmp_path / "run").state == "finished"
    assert status_of(tmp_path / "run")["failed_seeds"] == {}


def test_the_evaluation_of_the_only_seed_fails(tmp_path, straight):
    first = read_lines(straight / "evaluations.jsonl")[:4]
    tried = Walk()
    why_not_repeatable(Environment(tried))
    # Of the second evaluation.
    step = 1 + tried.total_steps + sum(record["lengths"][0] for record in first)
    result = start(tmp_path / "run", walks(at(1, step, broken)))
    assert (result.state, result.env_step) == ("failed", 16)
    assert "Walk raised Broken" in result.reason
    assert resume(tmp_path / "run").state == "finished"
    assert_same_run(tmp_path / "run", straight)


def test_a_parameter_that_is_no_number_stops_the_run(tmp_path, poison, monkeypatch, straight):
    poison(26, 0)
    result = start(tmp_path / "run")
    assert (result.state, result.env_step) == ("failed", 26)
    assert result.reason == "seed 0: weight, action became NaN or infinite at env step 26"
    # The poisoned state is kept apart; the checkpoint is from before.
    kept = safetensors.numpy.load_file(
        tmp_path / "run" / "failures" / "seed-0" / "state.safetensors"
    )
    assert not all(np.isfinite(array).all() for array in kept.values())
    assert position_of(tmp_path / "run")["env_step"] == 15
    assert_finite(arrays_of(tmp_path / "run"))
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert "NaN" not in (tmp_path / "run" / name).read_text()
    monkeypatch.undo()
    assert resume(tmp_path / "run").state == "finished"
    assert_same_run(tmp_path / "run", straight)


def test_the_reason_names_what_is_not_finite_and_nothing_else(tmp_path, monkeypatch):
    """Also what only the first of an env step's two updates has."""

    def make(config, spec):
        agent = toy(config, spec)

        def update(state, batch, key, counters):
            state, metrics = agent.update(state, batch, key, counters)
            nan, inf = (jnp.where(counters.update == 20, bad, 0.0) for bad in (NAN, INF))
            return state, metrics | {"loss": nan, "norms": jnp.array([0.0, 1.0]) + inf}

        return agent._replace(update=update)

    monkeypatch.setitem(ALGORITHMS, "toy", dataclasses.replace(TOY, make=make))
    training = TrainingConfig(**(SCHEDULE | {"batch_size": 8, "evaluation_modes": ()}))
    config = RunConfig(env="walk", algorithm="toy", training=training, settings=ToyConfig())
    result = start_run(config, walks(), tmp_path / "run", progress=False)
    assert result.reason == "seed 0: loss, norms became NaN or infinite at env step 23"


def test_a_poisoned_seed_leaves_the_others_alone(tmp_path, poison):
    poison(26, 1)
    result = start(tmp_path / "run", seeds=THREE)
    assert (result.state, result.env_step) == ("failed", 48)
    seed, failure = only_failure(tmp_path / "run")
    assert (seed, failure["env_step"]) == (1, 26)
    assert_finite(arrays_of(tmp_path / "run"))
    assert position_of(tmp_path / "run")["seeds"] == [0, 2]


def test_failures_are_told_to_who_watches(tmp_path, capsys):
    start(tmp_path / "run", walks(at(0, 5, broken)))
    with shared_programs():
        resume_run(tmp_path / "run", walks(at(0, 5, broken)), {})
    assert "seed 0 failed: Walk raised Broken" in capsys.readouterr().out
