"""`dime.train` and its companions as a program uses them."""

import json
import re
import signal
import threading

import gymnasium
import numpy as np
import pytest

import dime
from dime.training.presets import make_config
from tests.training.runs import (
    DIME,
    OPTIONS,
    Brake,
    assert_same_run,
    read_lines,
    shared_programs,
    status_of,
    without_times,
)
from tests.training.toy import NAME
from tests.training.walk import Walk, at, walks


@pytest.fixture(autouse=True)
def compiled_once():
    with shared_programs():
        yield


def train(run_dir, env=None, **more):
    return dime.train(env or walks(), run_dir=run_dir, **({"progress": False} | OPTIONS | more))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight") / "run"
    with shared_programs():
        train(folder)
    return folder


def test_everything_public_is_there():
    for name in dime.__all__:
        assert getattr(dime, name) is not None
    assert set(dime.__all__) <= set(dir(dime))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        dime.trian  # noqa: B018


def test_training_on_a_factory(tmp_path):
    env = walks()
    result = train(tmp_path / "run", env)
    assert (result.state, result.reason, result.env_step) == ("finished", None, 48)
    assert (result.run_dir, result.signal) == (tmp_path / "run", None)
    # One environment to train, two to evaluate; each transition of the replay is one of its steps.
    assert [walk.total_steps > 0 for walk in env.made] == [True, True, True]
    assert env.made[0].total_steps == 48
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["env_is_object"] and "make_walk" in config["env"]


def test_a_class_is_a_factory_too(tmp_path, straight):
    train(tmp_path / "run", Walk)
    mine, others = (
        without_times(read_lines(run / "metrics.jsonl")) for run in (tmp_path / "run", straight)
    )
    assert mine == others


def test_arguments_of_the_environment(tmp_path):
    given = []

    def make(**arguments):
        given.append(arguments)
        return Walk()

    train(tmp_path / "run", make, env_kwargs={"size": 3}, callback=lambda record: True)
    assert given == [{"size": 3}] * 3
    dime.resume(tmp_path / "run", env=make, progress=False, callback=lambda record: True)
    assert given == [{"size": 3}] * len(given)


def test_the_callback_hears_every_record(tmp_path):
    heard = []

    def callback(record):
        heard.append(dict(record))
        record.clear()  # it is the callback's own

    train(tmp_path / "run", callback=callback)
    written = [
        record
        for name in ("metrics.jsonl", "evaluations.jsonl")
        for record in read_lines(tmp_path / "run" / name)
    ]
    assert sorted(map(str, heard)) == sorted(map(str, written))
    assert [record["env_step"] for record in heard] == sorted(r["env_step"] for r in written)


def test_the_callback_stops_the_run(tmp_path, straight):
    result = train(tmp_path / "run", callback=lambda record: record["env_step"] >= 16)
    assert (result.state, result.reason) == ("interrupted", "stopped by the callback")
    assert result.env_step == 16
    assert status_of(tmp_path / "run")["reason"] == "stopped by the callback"
    # What the callback said first is not forgotten because of what it said later.
    answers = iter([True, *[False] * 100])
    result = train(tmp_path / "first", callback=lambda record: next(answers))
    assert (result.state, result.env_step) == ("interrupted", 0)
    for name in ("run", "first"):
        assert dime.resume(tmp_path / name, env=walks(), progress=False).state == "finished"
        assert_same_run(tmp_path / name, straight)


def test_resume_asks_for_the_environment_again(tmp_path):
    train(tmp_path / "run", callback=lambda record: record["env_step"] == 20)
    with pytest.raises(dime.DimeError, match=r"Python object \(.*dime\.resume\(.*env="):
        dime.resume(tmp_path / "run")
    assert status_of(tmp_path / "run")["state"] == "interrupted"


def test_resume_with_more_steps(tmp_path):
    train(tmp_path / "run", num_env_steps=32)
    result = dime.resume(tmp_path / "run", env=walks(), num_env_steps=48, progress=False)
    assert (result.state, result.env_step) == ("finished", 48)


def test_a_failure_is_an_exception_that_has_the_result(tmp_path):
    def broken():
        raise RuntimeError("no power")

    with pytest.raises(dime.RunFailedError, match="no power") as caught:
        train(tmp_path / "run", walks(at(0, 22, broken)))
    assert caught.value.result.state == "failed"
    assert caught.value.result.env_step == 21
    assert isinstance(caught.value, dime.DimeError)


@pytest.mark.parametrize(
    "number, error", [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_is_passed_on_after_saving(tmp_path, monkeypatch, number, error):
    brake = Brake(monkeypatch)

    def stop():
        brake.interruption.requested = number

    with pytest.raises(error) as caught:
        train(tmp_path / "run", walks(at(0, 22, stop)))
    if error is SystemExit:
        assert caught.value.code == 75
    assert status_of(tmp_path / "run")["reason"] == number.name
    assert (tmp_path / "run" / "checkpoints" / "step-000000022").is_dir()


def test_in_a_thread_of_its_own(tmp_path, straight):
    """There signals cannot be heard; everything else is the same."""
    ended = []
    thread = threading.Thread(target=lambda: ended.append(train(tmp_path / "run")))
    thread.start()
    thread.join()
    assert ended[0].state == "finished"
    assert_same_run(tmp_path / "run", straight)


def test_progress_can_be_silent(tmp_path, capsys):
    train(tmp_path / "run", callback=lambda record: record["env_step"] == 16)
    assert capsys.readouterr() == ("", "")
    dime.resume(tmp_path / "run", env=walks(), callback=lambda record: True)
    assert "compiling" in capsys.readouterr().out


def test_the_default_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = train(None, "dime/MultiGoal-v0", callback=lambda record: True)
    place = result.run_dir.relative_to("runs").as_posix()
    assert re.fullmatch(rf"dime/MultiGoal-v0/{NAME}/[-_\d]+", place)
    assert (tmp_path / result.run_dir / "config.json").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"bach_size": 3}, "no option 'bach_size'; nearest: batch_size"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 3.5}, r"batch_size is 3\.5; it must be of type int"),
        (
            {"algorithm": "dime", "critic": {"num_atom": 3}},
            "no option 'critic.num_atom'",
        ),
        ({"algorithm": "dime", "critic": 3}, "critic is 3; it must be a table"),
        ({"algorithm": "dine"}, "no algorithm 'dine'; nearest: dime"),
        ({"preset": "labtop"}, "no preset 'labtop'; nearest: laptop"),
        ({"env_kwargs": {"speed": 2}}, r"\{'speed': 2\}"),
    ],
)
def test_refusals(tmp_path, options, message):
    with pytest.raises(dime.DimeError, match=message):
        train(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_what_is_no_environment(tmp_path):
    with pytest.raises(dime.DimeError, match=r"must return a gymnasium\.Env, got int"):
        train(tmp_path / "run", lambda: 3)
    with pytest.raises(dime.DimeError, match="There is no environment 'Walkk-v7'"):
        train(tmp_path / "run", "Walkk-v7")
    assert not (tmp_path / "run").exists()


def test_an_unknown_support_is_asked_for(tmp_path):
    critic = DIME["critic"] | {"v_min": None, "v_max": None}
    with pytest.raises(dime.DimeError, match="No support .* 1000 random steps .*--critic.v-min"):
        train(tmp_path / "run", **(DIME | {"critic": critic}))
    assert not (tmp_path / "run").exists()


def test_presets_differ_and_options_win():
    paper, laptop = (
        make_config("dm_control/cartpole-swingup", preset=preset) for preset in ("paper", "laptop")
    )
    assert paper.settings.critic.hidden_dim == 2048 > laptop.settings.critic.hidden_dim
    assert paper.training.num_env_steps == 1_000_000 > laptop.training.num_env_steps
    assert (paper.training.evaluate_every, paper.training.checkpoint_every) == (24_000, 10_000)
    assert (laptop.training.evaluate_every, laptop.training.checkpoint_every) == (2_500, 500)
    assert laptop.training.num_random_steps <= 500
    assert (laptop.settings.critic.v_max, paper.settings.critic.v_max) == (100.0, 200.0)
    own = make_config("dm_control/cartpole-swingup", preset="laptop", critic={"hidden_dim": 7})
    assert own.settings.critic.hidden_dim == 7
    assert own.settings.critic.v_max == 100.0
    assert own.settings.policy == laptop.settings.policy


def test_an_environment_by_its_name():
    env = dime.make_env("dime/MultiGoal-v0")
    assert isinstance(env, gymnasium.Env)
    obs, _ = env.reset(seed=0)
    assert obs.shape == (2,) and obs.dtype == np.float32
    assert "dime/MultiGoal-v0" in dime.list_environments()["dime"]
