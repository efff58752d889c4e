"""The command line: what it answers, what it refuses and how, and its exit statuses."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import imageio
import pytest

import dime
import dime.cli.commands
import dime.cli.main
import dime.training.host.learners
from dime.benchmark.timing import read_costs
from dime.cli.commands import read_env_kwargs
from dime.cli.main import COMMANDS, main, parse
from dime.cli.train import muted_if_nobody_reads
from dime.training.presets import make_config
from dime.training.run_directory import RunDirectory
from tests.training.runs import (
    DIME,
    OPTIONS,
    Brake,
    as_words,
    checkpoints,
    read_lines,
    shared_programs,
    start,
    status_of,
)
from tests.training.toy import NAME
from tests.training.walk import ID, walks

PLANE = "dime/MultiGoal-v0"
SMALL = as_words(OPTIONS)
SUPPORT = ["--critic.v-min", "-50", "--critic.v-max", "50"]


class Answer:
    """What a command answered."""

    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err
        # The frames and line breaks of tyro's panels taken away.
        self.words = " ".join(re.sub(r"[│╭╮╰╯─]", " ", out + err).split())


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Runs a command in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("COLUMNS", "100")

    def run_command(*words):
        capsys.readouterr()
        with shared_programs():
            try:
                status = main([str(word) for word in words])
            except SystemExit as ended:
                status = ended.code
        return Answer(status, *capsys.readouterr())

    return run_command


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    """A finished run on the multi-goal plane."""
    folder = tmp_path_factory.mktemp("plane") / "run"
    start(folder, PLANE)
    return folder


# The words, and what the answer must have: what was wrong, its value, the remedy.
REFUSED = {
    "no environment": (["train"], ["ENV", "required"]),
    "unknown environment": (
        ["train", "Humanoidd-v4"],
        ["no environment 'Humanoidd-v4'", "Nearest:", "Humanoid-v4"],
    ),
    "unknown task": (
        ["train", "dm_control/dog-runn"],
        ["no environment 'dm_control/dog-runn'", "dm_control/dog-run"],
    ),
    "unknown module": (["train", "no_such_module:Id-v0"], ["module 'no_such_module' failed"]),
    "unknown algorithm": (
        ["train", PLANE, "--algorithm", "dine"],
        ["no algorithm 'dine'", "nearest: dime"],
    ),
    "unknown preset": (
        ["train", PLANE, "--preset", "labtop"],
        ["no preset 'labtop'", "nearest: laptop"],
    ),
    "unknown command": (["trian", PLANE], ["no command 'trian'", "nearest: train"]),
    "unknown option": (["train", PLANE, "--bach-size", "3"], ["--bach-size", "--batch-size"]),
    "unknown nested option": (
        ["train", PLANE, "--policy.num-denoising-stepz", "3"],
        ["--policy.num-denoising-stepz", "--policy.num-denoising-steps"],
    ),
    "discrete actions": (
        ["train", "CartPole-v1", *SUPPORT],
        ["CartPole-v1 has the action space Discrete(2)", "docs/environments.md"],
    ),
    "unbounded actions": (
        ["train", "dm_control/lqr-lqr_2_1"],
        ["dm_control/lqr-lqr_2_1", "not finite", "-inf", "finite bounds"],
    ),
    "zero size": (["train", PLANE, "--batch-size", "0"], ["batch_size is 0", "at least 1"]),
    "negative size": (
        ["train", PLANE, "--policy.hidden-dim", "-5"],
        ["hidden_dim is -5", "at least 1"],
    ),
    "negative steps": (
        ["train", PLANE, "--num-env-steps", "-1"],
        ["num_env_steps is -1", "at least 1"],
    ),
    "not a number": (["train", PLANE, "--batch-size", "many"], ["--batch-size", "many"]),
    "empty support": (
        ["train", PLANE, "--critic.v-min", "5", "--critic.v-max", "-5"],
        ["support [5.0, -5.0]", "v_min must be below v_max"],
    ),
    "support of one point": (
        ["train", PLANE, "--critic.v-min", "5", "--critic.v-max", "5"],
        ["support [5.0, 5.0]", "v_min must be below v_max"],
    ),
    "support not known": (
        ["train", "Pendulum-v1"],
        ["Pendulum-v1", "[-689.1, -434.2]", "--critic.v-min -1000 --critic.v-max 1000"],
    ),
    "half a support": (
        ["train", "Pendulum-v1", "--critic.v-min", "-10"],
        ["No support", "--critic.v-min -1000"],
    ),
    "no seeds": (["train", PLANE, "--seeds"], ["No seed was given", "--seeds"]),
    "a seed twice": (["train", PLANE, "--seeds", "0", "0"], ["twice", "(0, 0)"]),
    "unknown mode": (["train", PLANE, "--evaluation-modes", "greedy"], ["greedy", "best_of_n"]),
    "a mode that another algorithm has": (
        ["train", PLANE, "--algorithm", "qsm", "--evaluation-modes", "softmax_of_n"],
        ["no mode for qsm", "softmax_of_n", "best_of_n"],
    ),
    "an option that another algorithm has": (
        ["train", PLANE, "--algorithm", "qsm", "--improvement.num-steps", "3"],
        ["Unrecognized options: --improvement.num-steps", "dime train ENV --algorithm qsm --help"],
    ),
    "no such algorithm": (
        ["train", PLANE, "--algorithm", "quvpo"], ["no algorithm 'quvpo'", "nearest: qvpo"]
    ),
    "an algorithm's module that is not there": (
        ["train", PLANE, "--algorithm", "no_such_module:MINE"],
        ["no_such_module", "cannot be imported", "PYTHONPATH"],
    ),
    "an algorithm that is none": (
        ["train", PLANE, "--algorithm", "math:pi"], ["no dime.Algorithm in the module 'math' 'pi'"]
    ),
    "a chain without steps": (
        ["train", PLANE, "--algorithm", "dipo", "--policy.num-denoising-steps", "0"],
        ["num_denoising_steps is 0"],
    ),
    "no candidates": (
        ["train", PLANE, "--algorithm", "qvpo", "--num-action-candidates", "0"],
        ["num_action_candidates is 0"],
    ),
    "a head that there is not": (
        ["train", PLANE, "--algorithm", "diffusion-ql", "--critic.head", "quantile"],
        ["quantile", "categorical", "scalar"],
    ),
    "a reset that would never come": (
        ["train", PLANE, "--algorithm", "bro", "--env-steps-per-update", "2"],
        ["15001", "multiples of 2", "env_steps_per_update"],
    ),
    "environment's options": (
        ["train", PLANE, "--env-kwargs", "size=3"],
        [PLANE, "{'size': 3}", "unexpected keyword argument"],
    ),
    "environment's options unread": (
        ["train", PLANE, "--env-kwargs", "size"],
        ["--env-kwargs takes name=value, got 'size'"],
    ),
    "no such config": (["train", PLANE, "--config", "none.json"], ["none.json", "cannot be read"]),
    "resume of nothing": (["resume", "nowhere"], ["nowhere is not a run", "config.json"]),
    "evaluate of nothing": (["evaluate", "nowhere"], ["nowhere is not a run", "config.json"]),
    "plot of nothing": (["plot", "nowhere", "-o", "a.png"], ["nowhere", "config.json"]),
    "list of nothing": (["list", "colours"], ["colours", "algorithms", "presets"]),
}  # fmt: skip


@pytest.mark.parametrize("words, parts", REFUSED.values(), ids=REFUSED)
def test_refusals_say_what_and_leave_nothing(run, words, parts, tmp_path):
    answer = run(*words)
    assert answer.status == 2
    assert answer.out == ""
    assert "Traceback" not in answer.err
    for part in parts:
        assert part in answer.words, answer.words
    assert list(tmp_path.rglob("*")) == [tmp_path / "here"]


def test_a_suite_that_is_not_installed(run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "myosuite", None)
    answer = run("train", "myoHandReachRandom-v0")
    assert answer.status == 2
    assert "MyoSuite is not installed" in answer.err and "dime-rl[myo]" in answer.err
    assert list(tmp_path.rglob("*")) == [tmp_path / "here"]


def test_weights_and_biases_that_is_not_installed(run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    answer = run("train", PLANE, *SMALL, "--wandb-project", "mine")
    assert answer.status == 2
    assert "pip install 'dime-rl[wandb]'" in answer.err
    assert list(tmp_path.rglob("*")) == [tmp_path / "here"]


@pytest.mark.parametrize(
    "content, parts",
    [
        ("[]", ["table of options"]),
        ("{", ["cannot be read"]),
        ('{"env": "x", "format_version": 9}', ["format version 9", "up to 1"]),
        ('{"env": "x", "training": {"batch_siz": 3}}', ["training.batch_siz", "nearest"]),
        ('{"env": "x", "training": {"batch_size": true}}', ["batch_size is True", "int"]),
    ],
)
def test_a_config_that_cannot_be_used(run, content, parts):
    Path("config.json").write_text(content)
    answer = run("train", "--config", "config.json")
    assert answer.status == 2
    assert "Traceback" not in answer.err
    for part in parts:
        assert part in answer.err, answer.err
    assert os.listdir() == ["config.json"]


def test_a_place_that_is_taken(run, plane):
    before = {path: path.stat().st_mtime_ns for path in plane.rglob("*")}
    answer = run("train", PLANE, *SMALL, "--run-dir", plane)
    assert answer.status == 2
    assert f"{plane} exists already. Resume it (dime resume {plane})" in answer.err
    assert "--run-dir" in answer.err
    assert {path: path.stat().st_mtime_ns for path in plane.rglob("*")} == before


def test_a_run_that_has_nothing_left_to_do(run, plane):
    answer = run("resume", plane)
    assert answer.status == 2
    assert "env step 48 of 48" in answer.err and "--num-env-steps N" in answer.err


def test_a_run_of_a_newer_version(run, tmp_path, plane):
    config = json.loads((plane / "config.json").read_text()) | {"format_version": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for command in ("resume", "evaluate"):
        answer = run(command, tmp_path)
        assert answer.status == 2
        assert "format version 2" in answer.err and "pip install --upgrade" in answer.err


def test_a_run_on_a_python_object(run, tmp_path):
    start(tmp_path / "run", walks(), callback=lambda record: True)
    for command, advice in (("resume", "dime.resume("), ("evaluate", "dime.evaluate(")):
        answer = run(command, tmp_path / "run")
        assert answer.status == 2
        assert "was passed as a Python object" in answer.err
        assert advice in answer.err and "env=" in answer.err
        assert "make_walk" in answer.err


def test_help_of_everything(run):
    for words in (["--help"], ["-h"], []):
        overview = run(*words)
        assert overview.status == 0
        assert all(f"dime {name} " in overview.out for name in COMMANDS)
    for name, command in COMMANDS.items():
        answer = run(name, "--help")
        assert answer.status == 0
        assert f"usage: dime {name}" in answer.out
        assert " ".join(command.__doc__.split()) in answer.words
    answer = run("--version")
    assert (answer.status, answer.out.strip()) == (0, f"dime {dime.__version__}")


def test_help_of_train_shows_the_loops_and_the_algorithms_options(run):
    answer = run("train", PLANE, "--help")
    for option in (
        "--num-env-steps", "--seeds", "--policy.num-denoising-steps", "--critic.v-min",
        "--temperature.target-running-cost-per-dim", "--discount", "--env-kwargs", "--run-dir",
    ):  # fmt: skip
        assert option in answer.words
    # Each says its unit or meaning, and where its default is from.
    assert "uniform random actions, no updates (paper, table 2)" in answer.words
    assert "Length of the chain, at least 1 (paper, table 2). (default: 16)" in answer.words


def test_help_shows_the_defaults_of_the_preset_and_the_environment(run):
    assert "(default: 1000000)" in run("train", "--help").words
    assert "(default: 20000)" in run("train", "--preset", "laptop", "--help").words
    assert "(default: 20000)" in run("train", PLANE, "--preset=laptop", "-h").words
    assert "(default: -3600.0)" in run("train", "myoHandReachRandom-v0", "--help").words
    assert "(default: -200.0)" in run("train", "dm_control/dog-run", "--help").words


def test_options_take_the_places_they_name():
    command = parse(
        ["train", PLANE, "--preset", "laptop", "--seeds", "3", "1", "--batch-size", "32"]
        + ["--policy.num-denoising-steps", "4", "--critic.head", "scalar"]
        + ["--temperature.no-learn", "--no-tensorboard", "--run-dir", "there"]
        + ["--evaluation-modes", "best_of_n", "stochastic", "--no-video"]
    )
    assert (command.env, command.preset, command.run_dir) == (PLANE, "laptop", Path("there"))
    assert (command.training.seeds, command.training.batch_size) == ((3, 1), 32)
    assert command.training.num_env_steps == 20_000  # the preset's
    assert command.training.evaluation_modes == ("best_of_n", "stochastic")
    assert not command.training.tensorboard and not command.video
    assert (command.settings.policy.num_denoising_steps, command.settings.critic.head) == (
        4,
        "scalar",
    )
    assert not command.settings.temperature.learn
    assert command.settings.critic.v_max == 100.0  # the environment's


@pytest.mark.parametrize(
    "words",
    [
        ["--num-env-steps", "60", PLANE],
        ["--seeds", "0", "1", "--no-video", PLANE],
        ["--preset", "laptop", PLANE, "--seeds", "0"],
    ],
)
def test_the_environment_comes_before_the_options(words):
    with pytest.raises(dime.DimeError, match=f"ENV comes before all options: dime train {PLANE}"):
        parse(["train", *words])


def test_a_runs_config_can_be_run_again(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(make_config(PLANE, **DIME).to_json()))
    command = parse(["train", "--config", str(file), "--seeds", "5"])
    recorded = json.loads(file.read_text())
    assert command.env == PLANE
    assert command.training.seeds == (5,)
    assert command.training.num_env_steps == recorded["training"]["num_env_steps"] == 48
    assert command.settings.critic.num_atoms == 11
    other = parse(["train", "Pendulum-v1", "--num-env-steps", "9", "--config", str(file)])
    assert (other.env, other.training.num_env_steps) == ("Pendulum-v1", 9)
    assert other.settings.critic.v_min is None  # the plane's support is not Pendulum's
    words = ["train", "dm_control/dog-run", "--config", str(file)]
    assert parse(words).settings.critic.v_min == -200.0
    assert parse([*words, "--critic.v-min", "-3"]).settings.critic.v_min == -3.0


def test_words_for_the_environment():
    words = ("contact=true", "size=3", "name=dog", "weights=[1, 2.5]", "path=a=b", "none=null")
    assert read_env_kwargs(words) == {
        "contact": True, "size": 3, "name": "dog", "weights": [1, 2.5], "path": "a=b", "none": None,
    }  # fmt: skip


def test_the_environments_options_are_kept_and_come_back(tmp_path):
    content = {"env": "Ant-v4", "env_kwargs": {"use_contact_forces": True, "name": "x y"}}
    # As an editor may write it, with a byte-order mark.
    (tmp_path / "config.json").write_text(json.dumps(content), "utf-8-sig")
    command = parse(["train", "--config", str(tmp_path / "config.json")])
    assert read_env_kwargs(command.env_kwargs) == content["env_kwargs"]


def test_what_a_training_leaves(run):
    answer = run("train", PLANE, *SMALL, "--seeds", "3")
    assert answer.status == 0, answer.err
    assert answer.err == ""
    (folder,) = Path("runs", "dime", "MultiGoal-v0", NAME).iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", folder.name)
    assert f"run directory: {folder}" in answer.out.splitlines()
    assert "compiling" in answer.out
    assert "env step      16 seed 3: return" in answer.out
    # The table: a line for each mode of the last evaluation, its mean as in the records.
    last = {r["mode"]: r for r in read_lines(folder / "evaluations.jsonl")}
    for mode, record in last.items():
        (line,) = (words for line in answer.out.splitlines()
                   if (words := line.split()) and words[2:3] == [mode])  # fmt: skip
        mean = sum(record["returns"]) / 2
        assert line[:5] == ["3", "48", mode, "2", f"{mean:.1f}"]
    picture = imageio.v3.imread(folder / "learning_curve.png")
    assert picture.shape[0] > 200 and picture.std() > 1
    assert (folder / "video.mp4").stat().st_size > 1000
    assert f"wrote {folder / 'video.mp4'}" in answer.out
    config = json.loads((folder / "config.json").read_text())
    assert (config["env"], config["env_is_object"], config["training"]["seeds"]) == (
        PLANE, False, [3],
    )  # fmt: skip


def began(*arguments):
    raise dime.DimeError("it began")


def in_a_terminal(monkeypatch, foreground):
    """One whose process group in the foreground is this."""
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: True, fileno=lambda: 0))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(os, "tcgetpgrp", lambda descriptor: foreground)


@pytest.mark.parametrize(
    "more, answer, begins",
    [([], "n", False), ([], EOFError, False), ([], "y", True), (["--yes"], None, True)]
)  # fmt: skip
def test_a_run_of_hours_is_asked_about_on_a_terminal(run, monkeypatch, more, answer, begins):
    def replied(question):
        assert answer is not None and question == "Start? [y/N] "
        if answer is EOFError:
            raise EOFError
        return answer

    monkeypatch.setattr("builtins.input", replied)
    in_a_terminal(monkeypatch, os.getpgrp())
    monkeypatch.setattr("dime.benchmark.timing.make_matmul", lambda: lambda: 266.3 / 2)
    monkeypatch.setattr(RunDirectory, "create_default", began)
    told = run("train", PLANE, *more)
    assert told.status == 2 and ("it began" in told.err) == begins
    assert begins or ("--yes" in told.err and os.listdir() == [])
    # 2 updates of 178 ms and an action for each of a million env steps, at half the rate.
    assert "at least about 197 hours for its updates and actions (1,000,000 env" in told.out
    assert "133 GFLOP/s here" in told.out and "--preset laptop" in told.out


def test_without_a_terminal_a_run_of_hours_is_only_announced(run, monkeypatch):
    monkeypatch.setattr("dime.benchmark.timing.make_matmul", lambda: lambda: 266.3)
    monkeypatch.setattr(RunDirectory, "create", began)
    monkeypatch.setattr(RunDirectory, "create_default", began)
    long_run = ["train", PLANE, *as_words(DIME | {"num_env_steps": 1_000_000})]
    assert "hours" in (told := run(*long_run)).out and "it began" in told.err
    short = run("train", PLANE, *as_words(DIME), "--run-dir", "short")
    assert short.out == "" and "it began" in short.err
    in_a_terminal(monkeypatch, os.getpgrp() + 1)  # in its background: reading would stop the run
    assert "hours" in (told := run(*long_run)).out and "it began" in told.err
    in_a_terminal(monkeypatch, os.getpgrp())
    assert "hours" in (told := run(*long_run)).out and "it began" in told.err  # sizes of its own
    with pytest.raises(dime.DimeError, match="it began"), shared_programs():
        dime.train(PLANE, **DIME | {"num_env_steps": 1_000_000}, run_dir="from-python")


def test_costs_that_cannot_be_read_are_named(monkeypatch):
    monkeypatch.setattr("dime.benchmark.timing._SHIPPED", "nothing.json")
    with pytest.raises(dime.DimeError, match=r"nothing.json is no file of"):
        read_costs(None, "paper")


def test_only_studies_are_listed(run, tmp_path, monkeypatch):
    (tmp_path / "sweeps" / "studies").mkdir(parents=True)
    for name in ("one.toml", "one.toml.orig"):
        (tmp_path / "sweeps" / "studies" / name).write_text("description = 'what it shows'")
    monkeypatch.setattr("dime.cli.commands._PACKAGE", tmp_path)
    assert run("list", "studies").out == "one  what it shows\n"


def test_only_a_command_redirects_what_nobody_reads(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    own = os.dup(1)
    os.dup2(writer, 1)
    try:
        start(tmp_path / "run")
        assert os.path.sameopenfile(1, writer)
        before = len(os.listdir("/proc/self/fd"))
        with muted_if_nobody_reads():
            pass
        assert os.path.samestat(os.fstat(1), os.stat(os.devnull))
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        os.dup2(own, 1)
        os.close(own)
        os.close(writer)


def test_a_film_that_cannot_be_made_is_said_and_nothing_is_lost(run, monkeypatch):
    def refuse(*arguments):
        raise dime.DimeError("no renderer; apt-get install libegl1")

    monkeypatch.setattr("dime.cli.train.record_video", refuse)
    answer = run("train", PLANE, *SMALL, "--run-dir", "run")
    assert answer.status == 0
    assert "no video: no renderer; apt-get install libegl1" in answer.out
    assert Path("run", "learning_curve.png").exists()


def test_a_failed_run(run):
    words = ["--env-kwargs", "nan_at=40", "--evaluate-every", "1000"]  # past the first evaluation
    answer = run("train", ID, *SMALL, *words, "--run-dir", "run", "--no-video")
    assert answer.status == 1
    assert "Traceback" not in answer.out + answer.err
    for part in ("the run failed: seed 0", ID, "non-finite reward", "env step 39"):
        assert part in answer.err
    status = status_of(Path("run"))
    assert status["state"] == "failed" and "non-finite reward" in status["reason"]
    assert "run directory: run" in answer.out
    # What was lost comes back where the environment is mended.
    config = json.loads(Path("run", "config.json").read_text())
    Path("run", "config.json").write_text(json.dumps(config | {"env_kwargs": {}}))
    answer = run("resume", "run", "--no-video")
    assert answer.status == 2
    assert "config.json is damaged" in answer.err and 'delete its entry "sha256"' in answer.err
    del config["sha256"]
    Path("run", "config.json").write_text(json.dumps(config | {"env_kwargs": {}}))
    assert run("resume", "run", "--no-video").status == 0
    assert status_of(Path("run"))["state"] == "finished"


@pytest.mark.parametrize(
    "number, status",
    [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGHUP, 75), (signal.SIGINT, 130)],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_stopped_run(run, monkeypatch, number, status):
    stopped = Brake(monkeypatch)
    step = dime.training.host.learners.HostLearners.step

    def stopping(learners, at_most):
        if learners.env_step == 20:
            stopped.interruption.requested = number
        return step(learners, at_most)

    monkeypatch.setattr(dime.training.host.learners.HostLearners, "step", stopping)
    answer = run("train", PLANE, *SMALL, "--run-dir", "run")
    assert answer.status == status
    assert f"Stopped by {number.name} at env step 21." in answer.out
    assert "dime resume run" in answer.out
    assert status_of(Path("run"))["state"] == "interrupted"


def test_resume_and_extend(run, plane, tmp_path):
    folder = shutil.copytree(plane, tmp_path / "run")
    answer = run("resume", folder, "--num-env-steps", "60", "--no-video")
    assert answer.status == 0
    assert checkpoints(folder)[-1].name == "step-000000060"
    assert f"run directory: {folder}" in answer.out
    assert not (folder / "video.mp4").exists()
    assert (folder / "learning_curve.png").exists()


def test_evaluate_prints_a_table_and_films(run, plane):
    answer = run("evaluate", plane, "--mode", "best-of-n", "--episodes", "3", "--video", "a.mp4")
    assert answer.status == 0
    (line,) = (words for line in answer.out.splitlines()
               if (words := line.split()) and "best_of_n" in words)  # fmt: skip
    assert line[:4] == ["0", "48", "best_of_n", "3"]
    assert line[-1] == "%"  # the plane reports success
    assert "wrote a.mp4" in answer.out and Path("a.mp4").stat().st_size > 1000
    assert run("evaluate", plane, "--mode", "worst").status == 2
    refused = run("evaluate", plane, "--episodes", "0")
    assert refused.status == 2 and "episodes is 0" in refused.err


def test_evaluate_refuses_a_damaged_checkpoint(run, plane, tmp_path):
    folder = shutil.copytree(plane, tmp_path / "run")
    (checkpoints(folder)[-1] / "run.json").write_text("{}")
    answer = run("evaluate", folder, "--episodes", "1")
    assert answer.status == 2
    assert "run.json is damaged" in answer.err and "--checkpoint" in answer.err
    older = checkpoints(folder)[-2]
    for name in (older, older.name):
        named = run("evaluate", folder, "--episodes", "1", "--checkpoint", name)
        assert named.status == 0, named.err


def test_plot(run, plane):
    answer = run("plot", plane, "-o", "curves.svg")
    assert (answer.status, answer.out) == (0, "wrote curves.svg\n")
    assert Path("curves.svg").read_text().count("<path") > 10
    refused = run("plot", plane, "-o", "curves.txt")
    assert refused.status == 2 and ".png" in refused.err


def test_lists(run):
    algorithms = run("list", "algorithms").out
    assert "dime" in algorithms and "ICML 2025" in algorithms
    for part in ("qvpo", "NeurIPS 2024", "year", "quantile x2", "observation_seeded"):
        assert part in algorithms
    presets = run("list", "presets").out
    assert "paper" in presets and "laptop" in presets
    environments = run("list", "environments").out
    for name in ("dm_control/dog-run", "Humanoid-v4", PLANE, "dime/TwoModeBandit-v0"):
        assert f"  {name}\n" in environments + "\n"


def test_doctor(run, monkeypatch):
    monkeypatch.setattr(
        "dime.cli.doctor.renderer_status", lambda: ("egl", "egl: a scene was rendered.")
    )
    answer = run("doctor")
    assert answer.status == 0
    for part in ("python", "device", "jax", "dm-control", "renderer       egl"):
        assert part in answer.out
    assert "No known problem." in answer.out
    monkeypatch.setattr("dime.cli.doctor.known_bad", lambda versions: ["mujoco 9: no"])
    answer = run("doctor")
    assert answer.status == 1
    assert "PROBLEM   mujoco 9: no" in answer.out and "No known problem." not in answer.out


def test_benchmark_asks_for_its_cases(run, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "dime.benchmark.benchmark.benchmark", lambda *arguments: asked.append(arguments)
    )
    assert run("benchmark", "--cases", "small/cheetah-run", "--json", "a.json").status == 0
    assert asked == [(("small/cheetah-run",), Path("a.json"))]


def test_benchmark_of_all_algorithms_asks_for_a_preset(run, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "dime.benchmark.benchmark.benchmark_all", lambda *arguments: asked.append(arguments)
    )
    assert run("benchmark", "--all-algorithms", "--preset", "laptop").status == 0
    assert asked == [("laptop", None)]


def test_the_console_script_passes_the_status_on(monkeypatch):
    for status in (0, 1, 2, 75, 130):
        monkeypatch.setattr(dime.cli.main, "main", lambda status=status: status)
        with pytest.raises(SystemExit) as ended:
            dime.cli.main.entry()
        assert ended.value.code == status


def test_a_reader_that_has_seen_enough_is_no_error():
    script = "from dime.cli.main import entry; entry()"
    command = f"{sys.executable} -c '{script}' list environments | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("dm_control (")
