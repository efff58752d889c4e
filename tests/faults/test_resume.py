"""A run that was stopped and resumed is the run that was not, bit for bit."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from dime.algorithms.registry import ALGORITHMS
from dime.errors import DimeError
from dime.training.config import RunConfig, TrainingConfig, replace_nested
from dime.training.host.learners import HostLearners
from dime.training.run import resume_run, start_run
from tests.training.runs import (
    RECORDS,
    SCHEDULE,
    arrays_of,
    assert_finite,
    assert_no_record_twice,
    assert_same_run,
    checkpoints,
    position_of,
    read_lines,
    resume,
    shared_programs,
    start,
    status_of,
    without_times,
)
from tests.training.toy import TOY, ToyConfig
from tests.training.walk import Walk, at, steps_of_the_trial, walks

pytestmark = [pytest.mark.promise("R2"), pytest.mark.usefixtures("optimised")]

TRAINING, EVALUATION = 0, 1  # numbers of the walks of a run with one seed; 2 evaluates, too


@pytest.fixture(scope="module")
def straight(tmp_path_factory, optimised):
    """A run of one seed that nobody disturbed, of programs as users run them."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert start(folder).state == "finished"
    return folder


@pytest.fixture(scope="module")
def straight_two(tmp_path_factory):
    """A run of two seeds that nobody disturbed."""
    folder = tmp_path_factory.mktemp("straight") / "two"
    assert start(folder, seeds=[0, 7]).state == "finished"
    return folder


def stopping(brake, number, step):
    """Walks, of which the number-th stops the run at its step-th step."""
    return walks(at(number, step, brake))


def step_within(run_dir, env_step, mode):
    """The step of the first evaluating walk that is the second one of this evaluation."""
    records = read_lines(run_dir / "evaluations.jsonl")
    place = [(r["env_step"], r["mode"]) for r in records].index((env_step, mode))
    return 2 + steps_of_the_trial() + sum(record["lengths"][0] for record in records[:place])


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(7, id="random actions"),
        pytest.param(12, id="the last random action"),
        pytest.param(13, id="the first step that learns"),
        pytest.param(23, id="learning"),
        pytest.param(30, id="a checkpoint's step"),
        pytest.param(32, id="an evaluation's step"),
        pytest.param(45, id="the last checkpoint before the end"),
        pytest.param(47, id="the last step but one"),
    ],
)
def test_stopped_and_resumed_is_as_undisturbed(step, tmp_path, brake, straight):
    result = start(tmp_path / "run", stopping(brake, TRAINING, step))
    assert (result.state, result.env_step) == ("interrupted", step)
    assert status_of(tmp_path / "run")["reason"] == "SIGTERM"
    assert position_of(tmp_path / "run")["env_step"] == step
    assert resume(tmp_path / "run").state == "finished"
    assert_same_run(tmp_path / "run", straight)


@pytest.mark.parametrize(
    "env_step, mode",
    [(0, "stochastic"), (0, "deterministic"), (16, "best_of_n"), (32, "stochastic")]
    + [(48, "deterministic")],
)
def test_an_evaluation_cut_short_is_repeated(env_step, mode, tmp_path, brake, straight):
    step = step_within(straight, env_step, mode)
    result = start(tmp_path / "run", stopping(brake, EVALUATION, step))
    assert (result.state, result.env_step) == ("interrupted", env_step)
    records = read_lines(tmp_path / "run" / "evaluations.jsonl")
    assert max([record["env_step"] for record in records], default=-1) < env_step
    assert resume(tmp_path / "run").state == "finished"
    assert_same_run(tmp_path / "run", straight)


def test_two_seeds(tmp_path, brake, straight_two):
    result = start(tmp_path / "run", stopping(brake, 1, 22), seeds=[0, 7])
    assert (result.state, result.env_step) == ("interrupted", 22)
    resume(tmp_path / "run")
    assert_same_run(tmp_path / "run", straight_two)
    seeds = {record["seed"] for record in read_lines(tmp_path / "run" / "metrics.jsonl")}
    assert seeds == {0, 7}


def test_metrics_of_the_last_update_are_still_there_when_their_line_is_due(tmp_path, brake):
    """Between an update and its line the run stops, and no update comes in between."""
    rare = {"env_steps_per_update": 5, "log_every": 14}
    start(tmp_path / "straight", **rare)
    start(tmp_path / "run", stopping(brake, TRAINING, 27), **rare)
    assert resume(tmp_path / "run").state == "finished"
    assert_same_run(tmp_path / "run", tmp_path / "straight")
    assert "weight" in read_lines(tmp_path / "run" / "metrics.jsonl")[1]


def test_updates_that_become_fewer_go_on(tmp_path, brake):
    """A config edited by hand: how many updates there were before decides nothing."""
    start(tmp_path / "run", stopping(brake, TRAINING, 23))
    file = tmp_path / "run" / "config.json"
    config = json.loads(file.read_text())
    config["training"]["updates_per_env_step"] = 1
    del config["sha256"]
    file.write_text(json.dumps(config))
    assert resume(tmp_path / "run").state == "finished"
    assert position_of(tmp_path / "run")["updates"] == 2 * (23 - 12) + (48 - 23)


def test_stopped_again_and_again(tmp_path, brake, straight):
    states = [start(tmp_path / "run", stopping(brake, TRAINING, 4)).state]
    while states[-1] == "interrupted":
        states.append(resume(tmp_path / "run", stopping(brake, TRAINING, 9)).state)
    assert len(states) >= 6
    assert_same_run(tmp_path / "run", straight)


def test_stopped_by_the_callback(tmp_path, straight):
    def callback(record):
        return record["env_step"] == 20

    result = start(tmp_path / "run", callback=callback)
    assert (result.state, result.reason) == ("interrupted", "stopped by the callback")
    assert (result.env_step, result.signal) == (20, None)
    resume(tmp_path / "run")
    assert_same_run(tmp_path / "run", straight)


def test_on_physics(tmp_path):
    """MuJoCo's state holds more than positions and velocities: the episode is stepped again."""
    env = "dm_control/cartpole-swingup"
    options = {
        "num_env_steps": 30,
        "num_evaluation_episodes": 1,
        "evaluation_modes": ["deterministic"],
        "evaluate_every": 1000,
    }
    start(tmp_path / "straight", env, **options)
    stopped = start(
        tmp_path / "run", env, callback=lambda record: record["env_step"] == 20, **options
    )
    assert stopped.env_step == 20
    assert resume(tmp_path / "run", env).state == "finished"
    assert_same_run(tmp_path / "run", tmp_path / "straight")


@pytest.mark.promise("R16")
def test_the_same_twice_and_another_seed(tmp_path, straight, straight_two):
    start(tmp_path / "two", seeds=[0, 7])
    assert_same_run(tmp_path / "two", straight_two)
    start(tmp_path / "other", seeds=[7])
    one, other = (
        without_times(read_lines(run / "metrics.jsonl")) for run in (straight, tmp_path / "other")
    )
    for mine, others in zip(one, other, strict=True):
        assert mine["episode_return"] != others["episode_return"]
    actions = [
        arrays_of(run)["episodes/" + seed + "/next_action"]
        for run, seed in ((straight, "0"), (tmp_path / "other", "7"))
    ]
    assert (actions[0] != actions[1]).all()


def cut_metrics(run_dir, env_step):
    """Takes the records of an env step out of metrics.jsonl."""
    file = run_dir / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if f'"env_step": {env_step},' not in line))


def test_a_finished_run_is_extended_to_what_a_longer_one_is(tmp_path, straight):
    assert start(tmp_path / "run", num_env_steps=32).state == "finished"
    assert resume(tmp_path / "run", num_env_steps=48).state == "finished"
    metrics = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [record["env_step"] for record in metrics] == [10, 20, 30, 32, 40, 48]
    cut_metrics(tmp_path / "run", 32)  # the shorter run's end, where the longer one has no record
    assert_same_run(tmp_path / "run", straight)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config == json.loads((straight / "config.json").read_text())


def test_an_extended_run_has_room_for_more_transitions(tmp_path, monkeypatch):
    """A replay larger than the run is made as large as the run; extended, it grows."""
    monkeypatch.setitem(ALGORITHMS, "toy", TOY)
    training = TrainingConfig(**(SCHEDULE | {"num_env_steps": 80, "batch_size": 8}))
    config = RunConfig(
        env="walk", env_is_object=True, algorithm="toy", training=training, settings=ToyConfig()
    )
    start_run(config, walks(), tmp_path / "straight", progress=False)
    shorter = replace_nested(config, {"training": {"num_env_steps": 32}})
    start_run(shorter, walks(), tmp_path / "run", progress=False)
    resume_run(tmp_path / "run", walks(), {"num_env_steps": 80}, progress=False)
    cut_metrics(tmp_path / "run", 32)
    assert_same_run(tmp_path / "run", tmp_path / "straight")
    assert "replay/0/reward" in arrays_of(tmp_path / "run")


@pytest.mark.parametrize("num_env_steps", [None, 48, 30])
def test_a_finished_run_is_not_resumed_without_more_steps(num_env_steps, straight):
    before = sorted(path.stat().st_mtime_ns for path in straight.rglob("*.json*"))
    with pytest.raises(DimeError, match=r"env step 48 of 48; .* --num-env-steps N"):
        resume(straight, num_env_steps=num_env_steps)
    assert sorted(path.stat().st_mtime_ns for path in straight.rglob("*.json*")) == before


@pytest.mark.parametrize("num_env_steps", [10, 30])
def test_a_run_is_not_resumed_to_fewer_steps_than_planned(num_env_steps, tmp_path):
    start(tmp_path / "run", callback=lambda record: record["env_step"] == 20)
    before = contents(tmp_path)
    with pytest.raises(DimeError, match=r"env step 20 of 48; .* larger number than 48: --num-env"):
        resume(tmp_path / "run", num_env_steps=num_env_steps)
    assert contents(tmp_path) == before


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Crash(BaseException):
    """Ends a run as a kill does: nothing is saved."""


def crash():
    raise Crash


def test_records_newer_than_the_checkpoint_are_set_aside(tmp_path, straight):
    with pytest.raises(Crash):
        start(tmp_path / "run", walks(at(TRAINING, 43, crash)))
    assert checkpoints(tmp_path / "run")[-1].name == "step-000000030"
    written = [read_lines(tmp_path / "run" / name) for name in RECORDS]
    assert resume(tmp_path / "run").state == "finished"
    assert_same_run(tmp_path / "run", straight)
    newer = [record for records in written for record in records if record["env_step"] > 30]
    assert len(newer) == 4  # metrics at 40, three evaluations at 32
    discarded = read_lines(tmp_path / "run" / "discarded.jsonl")
    assert sorted(discarded, key=str) == sorted(newer, key=str)


def test_half_a_line_at_the_end_is_set_aside(tmp_path, straight):
    with pytest.raises(Crash):
        start(tmp_path / "run", walks(at(TRAINING, 43, crash)))
    for name in RECORDS:
        with (tmp_path / "run" / name).open("a") as file:
            file.write('{"env_step": 43, "see')
    assert resume(tmp_path / "run").state == "finished"
    assert_same_run(tmp_path / "run", straight)


def test_crashed_again_and_again(tmp_path, straight):
    with pytest.raises(Crash):
        start(tmp_path / "run", walks(at(TRAINING, 17, crash)))
    for step in (22, 13, 25):  # env steps 37 of 15..., 43 of 30..., and none that comes further
        with contextlib.suppress(Crash):
            resume(tmp_path / "run", walks(at(TRAINING, step, crash)))
    if status_of(tmp_path / "run")["state"] != "finished":
        resume(tmp_path / "run")
    assert_same_run(tmp_path / "run", straight)


def test_a_run_without_a_checkpoint_starts_again(tmp_path, straight):
    def callback(record):
        if record["mode"] == "deterministic":
            raise Crash

    with pytest.raises(Crash):
        start(tmp_path / "run", callback=callback)
    assert len(read_lines(tmp_path / "run" / "evaluations.jsonl")) == 2
    assert not checkpoints(tmp_path / "run")
    assert resume(tmp_path / "run").state == "finished"
    assert_same_run(tmp_path / "run", straight)
    assert len(read_lines(tmp_path / "run" / "discarded.jsonl")) == 2


class Stray(Walk):
    """Its noise does not come from the seed of the episode."""

    generator = np.random.default_rng(0)

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=int(self.generator.integers(2**31)))


def test_an_environment_that_its_seed_does_not_determine(tmp_path, capsys):
    start(tmp_path / "run", Stray, callback=lambda record: record["env_step"] == 20)
    episodes = position_of(tmp_path / "run")["episodes"][0]["number"]
    with shared_programs():
        result = resume_run(tmp_path / "run", Stray, {})
    assert result.state == "finished"
    out = capsys.readouterr().out
    assert "warning: The environment of seed 0 did not follow" in out
    assert_no_record_twice(tmp_path / "run")
    assert position_of(tmp_path / "run")["episodes"][0]["number"] > episodes
    arrays = arrays_of(tmp_path / "run")
    assert_finite(arrays)


def test_an_environment_of_other_spaces_is_refused(tmp_path, brake):
    start(tmp_path / "run", stopping(brake, TRAINING, 20))
    with pytest.raises(DimeError, match="spaces are no longer those"):
        resume(tmp_path / "run", "dime/TwoModeBandit-v0")


def bytes_of(run_dir):
    return {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}


def test_a_refused_resume_changes_nothing(tmp_path, brake):
    class Larger(Walk):
        def __init__(self):
            super().__init__(0, None)
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)

    start(tmp_path / "run", stopping(brake, TRAINING, 20))
    before = bytes_of(tmp_path / "run")
    with pytest.raises(DimeError, match="spaces are no longer those of"):
        resume(tmp_path / "run", Larger, num_env_steps=60)
    assert bytes_of(tmp_path / "run") == before


@pytest.mark.parametrize("compiles", [True, False])
def test_checkpoints_that_are_gone_are_not_trained_anew(tmp_path, brake, monkeypatch, compiles):
    start(tmp_path / "run", stopping(brake, TRAINING, 20))
    if not compiles:  # such a resume must not forget them

        def fail(learners):
            raise MemoryError

        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(HostLearners, "compile", fail)
            resume_run(tmp_path / "run", walks(), {})
        assert status_of(tmp_path / "run")["checkpoint_env_step"] == 20
    for path in checkpoints(tmp_path / "run"):
        shutil.rmtree(path)
    before = bytes_of(tmp_path / "run")
    with pytest.raises(DimeError, match="saved at env step 20, but its checkpoints are gone"):
        resume(tmp_path / "run")
    assert bytes_of(tmp_path / "run") == before


def test_shortened_records_are_noticed_and_not_damaged_further(tmp_path, brake, capsys):
    start(tmp_path / "run", stopping(brake, TRAINING, 20))
    file = tmp_path / "run" / "evaluations.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines)[:-40])
    (tmp_path / "run" / "provenance.json").write_text("{")
    with shared_programs():
        result = resume_run(tmp_path / "run", walks(), {})
    assert result.state == "finished"
    assert f"warning: {file} is damaged" in capsys.readouterr().out
    kept = read_lines(file)
    assert kept[: len(lines) - 1] == [json.loads(line) for line in lines[:-1]]
    assert kept[-1]["env_step"] == 48
    assert len(json.loads((tmp_path / "run" / "provenance.json").read_text())["starts"]) == 1


@pytest.mark.parametrize("end", ["removed", "moved"])
def test_a_run_whose_folder_is_taken_away_fails_and_does_not_revive_it(end, tmp_path):
    def take_away():
        if end == "removed":
            shutil.rmtree(tmp_path / "run")
        else:
            (tmp_path / "run").rename(tmp_path / "elsewhere")

    result = start(tmp_path / "run", walks(at(TRAINING, 20, take_away)))
    assert (result.state, result.reason) == ("failed", "the last checkpoint could not be written")
    assert not (tmp_path / "run").exists()
    if end == "moved":
        assert resume(tmp_path / "elsewhere").state == "finished"


def test_a_process_may_change_its_folder(tmp_path, monkeypatch, straight):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    elsewhere = walks(at(TRAINING, 20, lambda: monkeypatch.chdir(tmp_path / "other")))
    assert start(Path("run"), elsewhere).state == "finished"
    assert_same_run(tmp_path / "run", straight)


def test_a_factory_that_returns_one_environment_twice_is_refused(tmp_path):
    one = Walk(0, None)
    with pytest.raises(DimeError, match="returned twice .* return a new one at each call"):
        start(tmp_path / "run", lambda: one)


@pytest.mark.parametrize(
    "name", ["evaluations.jsonl", "metrics.jsonl", "provenance.json", "status.json", ".lock"]
)
@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_refused_before_anything_changes(name, kind, tmp_path, straight):
    run = shutil.copytree(straight, tmp_path / "run")
    (run / name).unlink(missing_ok=True)
    (run / name).mkdir() if kind == "folder" else os.mkfifo(run / name)
    config = (run / "config.json").read_bytes()
    with pytest.raises(DimeError, match=f"{name} is not a file"):
        resume(run, num_env_steps=60)
    assert (run / "config.json").read_bytes() == config
