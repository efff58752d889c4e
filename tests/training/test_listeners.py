"""Who is told of records: TensorBoard's files, Weights & Biases, the progress display."""

import importlib.machinery
import importlib.util
import struct
import sys
import time
import types
from collections import defaultdict

import pytest
from tensorboardX.proto import event_pb2

from dime.errors import DimeError
from dime.training.listeners import Progress, TensorBoard, WeightsAndBiases
from tests.training.runs import read_lines, resume, start

METRICS = {
    "env_step": 500, "updates": 980, "seed": 7, "episode_return": None, "critic_loss": 2.5,
    "step_sizes": [0.5, 0.25], "env_steps_per_s": 40.0,
}  # fmt: skip
EVALUATION = {
    "env_step": 500, "updates": 980, "seed": 7, "mode": "deterministic", "returns": [1.0, 4.0],
    "lengths": [10, 20], "success_any": [True, False], "success_last": None,
    "episode_seeds": [1, 2], "wall_time_s": 3.0,
}  # fmt: skip


def events(folder):
    """All scalars of a folder's event files: by tag, the values by step."""
    scalars = defaultdict(dict)
    for file in sorted(folder.glob("events.out.tfevents.*")):
        content = file.read_bytes()
        while content:  # length, its checksum, the message, its checksum
            (size,) = struct.unpack("<Q", content[:8])
            event = event_pb2.Event.FromString(content[12 : 12 + size])
            for value in event.summary.value:
                scalars[value.tag][event.step] = value.simple_value
            content = content[16 + size :]
    return dict(scalars)


def test_tensorboard_holds_the_numbers_by_seed(tmp_path):
    board = TensorBoard(tmp_path, (3, 7))
    board.record(METRICS)
    board.record(EVALUATION)
    board.record(METRICS | {"seed": 3, "critic_loss": 9.0})
    board.close()
    scalars = events(tmp_path / "seed-7")
    assert scalars["train/critic_loss"] == {500: 2.5}
    assert scalars["train/step_sizes/1"] == {500: 0.25}
    assert scalars["train/updates"] == {500: 980.0}
    assert scalars["evaluation/deterministic/returns"] == {500: 2.5}
    assert scalars["evaluation/deterministic/lengths"] == {500: 15.0}
    assert scalars["evaluation/deterministic/success_any"] == {500: 0.5}
    absent = ("episode_return", "success_last", "seed", "env_step")
    assert not [tag for tag in scalars if tag.endswith(absent)]
    assert events(tmp_path / "seed-3")["train/critic_loss"] == {500: 9.0}


def test_a_run_writes_its_records_to_tensorboard(tmp_path):
    stopped = start(
        tmp_path / "run", tensorboard=True, callback=lambda record: record["env_step"] == 20
    )
    folder = tmp_path / "run" / "tensorboard" / "seed-0"
    before = events(folder)
    assert stopped.state == "interrupted" and before
    time.sleep(1.0 - time.time() % 1.0)  # the files' names tell the second they were begun
    resume(tmp_path / "run")
    scalars = events(folder)
    for record in read_lines(tmp_path / "run" / "metrics.jsonl"):
        for name in ("critic_loss", "temperature", "updates"):
            if name in record:
                shown = scalars[f"train/{name}"][record["env_step"]]
                assert shown == pytest.approx(record[name], rel=1e-6)
    for record in read_lines(tmp_path / "run" / "evaluations.jsonl"):
        shown = scalars[f"evaluation/{record['mode']}/returns"][record["env_step"]]
        assert shown == pytest.approx(sum(record["returns"]) / 2, rel=1e-5)
    assert set(before["train/updates"]) < set(scalars["train/updates"])


def test_tensorboard_is_an_option(straight):
    assert not (straight / "tensorboard").exists()


def test_wandb_without_its_package_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(DimeError, match=r"ModuleNotFoundError.*pip install 'dime-rl\[wandb\]'"):
        start(tmp_path / "run", wandb_project="walks")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def wandb(monkeypatch):
    """A module in place of Weights & Biases; `wandb.runs` are the runs begun."""
    fake = types.ModuleType("wandb")
    fake.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    fake.runs = []

    class Run:
        def __init__(self, **arguments):
            self.arguments, self.logged, self.finished = arguments, [], 0

        def log(self, values):
            self.logged.append(values)

        def finish(self):
            self.finished += 1

    def init(**arguments):
        fake.runs.append(Run(**arguments))
        return fake.runs[-1]

    fake.init, fake.login = init, lambda: True
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_wandb_gets_the_records_and_resumes_the_same_run(tmp_path, wandb):
    start(
        tmp_path / "run",
        seeds=[7],
        wandb_project="walks",
        callback=lambda record: record["env_step"] == 20,
    )
    (first,) = wandb.runs
    assert (first.arguments["project"], first.arguments["name"]) == ("walks", "run")
    assert first.arguments["config"]["settings"] == {"step_size": 0.01}
    assert first.finished == 1
    records = [
        record
        for name in ("metrics.jsonl", "evaluations.jsonl")
        for record in read_lines(tmp_path / "run" / name)
    ]
    assert len(first.logged) == len(records)
    logged = {}
    for values in first.logged:
        for name, value in values.items():
            logged[values["env_step"], name] = value
    for record in read_lines(tmp_path / "run" / "metrics.jsonl"):
        place = record["env_step"], f"seed-{record['seed']}/train/updates"
        assert logged[place] == record["updates"]
    assert (16, "seed-7/evaluation/stochastic/returns") in logged
    resume(tmp_path / "run")
    assert wandb.runs[1].arguments["id"] == first.arguments["id"]
    assert wandb.runs[1].arguments["resume"] == "allow"


class UsageError(Exception):
    """As Weights & Biases has its own."""


def refuse(**arguments):
    raise UsageError("No API key configured.")


def test_a_login_that_fails_leaves_no_folder(tmp_path, wandb, monkeypatch):
    monkeypatch.setattr(wandb, "login", refuse)
    with pytest.raises(DimeError, match=r"UsageError: No API key .*wandb login.*WANDB_MODE"):
        start(tmp_path / "run", wandb_project="walks")
    assert not (tmp_path / "run").exists()


def test_a_run_whose_logger_could_not_start_is_resumed(tmp_path, wandb, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(wandb, "init", refuse)
        with pytest.raises(DimeError, match=r"UsageError: No API key .*wandb login.*WANDB_MODE"):
            start(tmp_path / "run", wandb_project="walks")
    assert resume(tmp_path / "run").state == "finished"


def test_a_logger_that_cannot_start_leaves_a_stopped_run_as_it_is(tmp_path, wandb, monkeypatch):
    options = {"wandb_project": "walks", "callback": lambda record: True}
    start(tmp_path / "run", **options)
    before = {path: path.stat().st_size for path in (tmp_path / "run" / "checkpoints").rglob("*")}
    monkeypatch.setattr(wandb, "init", None)
    with pytest.raises(DimeError, match=r"Weights & Biases cannot be used \(TypeError"):
        resume(tmp_path / "run")
    assert before == {p: p.stat().st_size for p in (tmp_path / "run" / "checkpoints").rglob("*")}


def test_a_logger_that_cannot_start_leaves_no_file_open(tmp_path, wandb, monkeypatch):
    monkeypatch.setattr(wandb, "init", None)
    monkeypatch.setattr("dime.training.run.TensorBoard", None)  # would be called after it
    with pytest.raises(DimeError, match="Weights & Biases cannot be used"):
        start(tmp_path / "run", wandb_project="walks", tensorboard=True)


def test_a_broken_package_of_wandb_is_explained(tmp_path, wandb, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # `import wandb` raises ImportError
    with pytest.raises(DimeError, match=r"cannot be used \(ModuleNotFoundError"):
        WeightsAndBiases.require_ready()
    with pytest.raises(DimeError, match=r"cannot be used \(ModuleNotFoundError"):
        WeightsAndBiases("walks", tmp_path, {})


def test_wandbs_names_tell_the_seed(tmp_path, wandb):
    listener = WeightsAndBiases("walks", tmp_path, {})
    listener.record(METRICS)
    assert wandb.runs[0].logged[0]["seed-7/train/critic_loss"] == 2.5
    assert wandb.runs[0].logged[0]["env_step"] == 500
    listener.close()


def test_plain_progress_prints_lines_now_and_then(capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("dime.training.listeners.time.monotonic", lambda: clock[0])
    progress = Progress(2000)
    for env_step in range(501, 1001):
        clock[0] += 0.125
        progress.step(env_step)
        if env_step == 550:
            progress.record({"seed": 0, "episode_return": 12.5})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6  # a minute
    assert lines[1] == "env step     661 of 2,000  return 12.5  8.0 env steps/s  0:02:47 left"
    progress.record(EVALUATION)
    assert "env step     500 seed 7: return 2.5 (deterministic" in capsys.readouterr().out
    progress.record(EVALUATION | {"returns": [-1.5e-6, -2.5e-6]})
    assert "return -2e-06 (deterministic" in capsys.readouterr().out


def test_without_a_terminal_there_are_no_control_characters(capsys):
    progress = Progress(10)
    progress.message("warning: so it is")
    progress.step(1)
    progress.close()
    assert capsys.readouterr().out == "warning: so it is\n"
