"""Signals and kills of real processes: saved, marked, resumed as if nothing had been."""

import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

from tests.training.processes import ENTRY, ROOT, resume, train
from tests.training.runs import (
    DIME,
    OPTIONS,
    as_words,
    assert_same_run,
    checkpoints,
    read_lines,
    status_of,
)
from tests.training.walk import steps_of_the_trial

IN_A_TERMINAL = f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0){ENTRY}"

pytestmark = pytest.mark.promise("R5")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """What the processes would have done if nobody had disturbed them."""
    return train(tmp_path_factory.mktemp("straight") / "run")


@pytest.fixture(scope="module")
def straight_dime(tmp_path_factory):
    """The same of DIME."""
    return train(tmp_path_factory.mktemp("dime") / "run", **DIME)


def last_line(printed):
    return printed.splitlines()[-1]


def steps_before(run_dir, env_step):
    """How many steps the first evaluating environment takes before this evaluation."""
    records = read_lines(run_dir / "evaluations.jsonl")
    before = [record["lengths"][0] for record in records if record["env_step"] < env_step]
    return steps_of_the_trial() + sum(before)


@pytest.mark.promise("R5", "R10")
@pytest.mark.parametrize(
    "number, phase, env_step, status",
    [
        pytest.param(signal.SIGTERM, 7, 7, 75, id="SIGTERM while collecting"),
        pytest.param(signal.SIGUSR1, 25, 25, 75, id="SIGUSR1 while learning"),
        pytest.param(signal.SIGINT, "evaluating", 16, 130, id="SIGINT while evaluating"),
    ],
)
def test_a_signal_saves_and_leaves(number, phase, env_step, status, training, straight):
    evaluating = phase == "evaluating"
    hold = (1, steps_before(straight, 16) + 2) if evaluating else (0, phase)
    process = training(hold)
    process.wait_for("reached")
    assert status_of(process.run_dir)["state"] == "running"
    process.send(number)
    process.go()
    code, printed = process.end()
    name = signal.Signals(number).name
    assert code == status
    assert f"Stopped by {name} at env step {env_step}." in printed
    assert f"dime resume {process.run_dir}" in printed
    assert "Traceback" not in printed
    found = status_of(process.run_dir)
    assert (found["state"], found["reason"], found["env_step"]) == ("interrupted", name, env_step)
    assert checkpoints(process.run_dir)[-1].name == f"step-{env_step:09d}"
    assert resume(process.run_dir) == 0
    assert_same_run(process.run_dir, straight)


# What the others do there is in tests/training/test_signals.py.
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.soak),
        pytest.param(signal.SIGUSR1, marks=pytest.mark.soak),
    ],
    ids=lambda number: number.name,
)
def test_a_signal_during_compilation_leaves_at_once(number, training, straight_dime):
    """DIME's programs, which take seconds to compile; then the whole run is DIME's."""
    process = training(cache=False, **DIME)
    line = ""
    while "compiling" not in line:
        line = process.process.stdout.readline()
        assert line, process.end()
    time.sleep(0.5)
    process.send(number)
    code, printed = process.end()
    assert code == (130 if number == signal.SIGINT else 75)
    assert "Fatal" not in printed and "Traceback" not in printed
    assert last_line(printed) == (
        f"Stopped by {number.name} during compilation; there was nothing to save. "
        f"Continue with: dime resume {process.run_dir}"
    )
    found = status_of(process.run_dir)
    assert found["state"] == "interrupted"
    assert found["reason"] == f"{number.name} during compilation"
    assert resume(process.run_dir) == 0
    assert_same_run(process.run_dir, straight_dime)


def test_a_second_signal_leaves_at_once(training, straight, capsys):
    process = training((0, 25))
    process.wait_for("reached")
    # Meanwhile nobody else may write there.
    before = (process.run_dir / "status.json").read_text()
    assert resume(process.run_dir) == 2
    assert f"Another process is training in {process.run_dir}" in capsys.readouterr().err
    assert (process.run_dir / "status.json").read_text() == before
    process.send(signal.SIGTERM)
    assert process.process.poll() is None  # it waits for the end of the env step
    process.send(signal.SIGINT)
    code, printed = process.end()
    assert code == 130
    assert "Left at the second signal (SIGINT)" in last_line(printed)
    assert last_line(printed).endswith(f"Continue with: dime resume {process.run_dir}")
    assert checkpoints(process.run_dir)[-1].name == "step-000000015"
    assert resume(process.run_dir) == 0
    assert_same_run(process.run_dir, straight)


@pytest.mark.promise("R1")
def test_kill_9(training, straight):
    process = training((0, 43))
    process.wait_for("reached")
    process.process.kill()
    assert process.end()[0] == -signal.SIGKILL
    assert status_of(process.run_dir)["state"] == "running"
    assert checkpoints(process.run_dir)[-1].name == "step-000000030"
    assert resume(process.run_dir) == 0
    assert_same_run(process.run_dir, straight)
    discarded = read_lines(process.run_dir / "discarded.jsonl")
    assert sorted((r["env_step"], r.get("mode", "")) for r in discarded) == [
        *((32, mode) for mode in sorted(OPTIONS["evaluation_modes"])),
        (40, ""),
    ]


def test_a_terminal_that_closes(tmp_path):
    """What was printed last has nobody to read it; the exit status is still the run's."""
    options = {
        "num_env_steps": 100_000,
        "num_random_steps": 10,
        "evaluate_every": 100_000,
        "log_every": 10,
        "batch_size": 4,
        "evaluation_modes": [],
        "replay_capacity": 1000,
        "run_dir": tmp_path / "run",
    }
    train = ["train", "dime/MultiGoal-v0", "--algorithm", "tests.training.toy:TOY", "--no-video"]
    terminal, end = pty.openpty()
    command = [sys.executable, "-c", IN_A_TERMINAL, *train, *as_words(options)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    process = subprocess.Popen(
        command, stdin=end, stdout=end, stderr=end, start_new_session=True, env=environment
    )
    os.close(end)
    try:
        metrics = tmp_path / "run" / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size):
            assert process.poll() is None
            if select.select([terminal], [], [], 0.02)[0]:
                os.read(terminal, 2**16)
    finally:
        os.close(terminal)
    assert process.wait(timeout=100) == 75
    found = status_of(tmp_path / "run")
    assert (found["state"], found["reason"]) == ("interrupted", "SIGHUP")
    assert found["checkpoint_env_step"] == found["env_step"] > 0
