"""Real runs, killed and told to stop wherever they are, end as if nothing had happened."""

import random
import signal
import time

import pytest

from dime.training.process import SIGNALS
from tests.training.processes import resume, train
from tests.training.runs import assert_same_run, checkpoints, read_lines, status_of
from tests.training.walk import steps_of_the_trial

pytestmark = [pytest.mark.soak, pytest.mark.usefixtures("optimised")]

OFTEN = {"checkpoint_every": 1, "num_env_steps": 120}
SLOW = {"updates_per_env_step": 300}
WARM_UP, COLLECTING, UPDATING, EVALUATING = 7, 25, 20, 16


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return train(tmp_path_factory.mktemp("straight") / "run")


@pytest.fixture(scope="module")
def straight_often(tmp_path_factory):
    return train(tmp_path_factory.mktemp("often") / "run", **OFTEN)


@pytest.fixture(scope="module")
def straight_slow(tmp_path_factory):
    return train(tmp_path_factory.mktemp("slow") / "run", **SLOW)


@pytest.mark.promise("R1")
@pytest.mark.parametrize("number", range(8))
def test_kill_9_at_any_instant(number, training, straight_often):
    """Half of them somewhere in the stream of saves, one after each env step."""
    process = training((0, 5 + 12 * number), **OFTEN)
    process.wait_for("reached")
    process.go()
    time.sleep(random.Random(number).uniform(0.0, 0.15))
    process.process.kill()
    process.end()
    assert checkpoints(process.run_dir), "nothing was saved before it was killed"
    finished = status_of(process.run_dir)["state"] == "finished"
    assert finished or resume(process.run_dir) == 0
    assert_same_run(process.run_dir, straight_often)


@pytest.mark.promise("R16")
@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_another_process_writes_the_same(hash_seed, training, straight, monkeypatch):
    """Compiled anew, and with sets and tables of names in another order."""
    monkeypatch.setenv("PYTHONHASHSEED", hash_seed)
    process = training(cache=False)
    assert process.end()[0] == 0
    assert_same_run(process.run_dir, straight)


@pytest.mark.promise("R5")
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("phase", ["warm-up", "collecting", "evaluating"])
def test_a_signal_saves_within_the_env_step(phase, number, training, straight):
    steps = {"warm-up": WARM_UP, "collecting": COLLECTING}
    env_step = steps.get(phase, EVALUATING)
    before = [r for r in read_lines(straight / "evaluations.jsonl") if r["env_step"] < EVALUATING]
    evaluating = steps_of_the_trial() + sum(r["lengths"][0] for r in before) + 2
    hold = (0, env_step) if phase in steps else (1, evaluating)
    process = training(hold)
    process.wait_for("reached")
    process.send(number)
    process.go()
    _assert_saved(process, number, env_step)
    assert resume(process.run_dir) == 0
    assert_same_run(process.run_dir, straight)


@pytest.mark.promise("R5")
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_during_an_update(number, training, straight_slow):
    """The updates of an env step take long here, and the signal arrives among them."""
    process = training((0, UPDATING), **SLOW)
    process.wait_for("reached")
    process.go()
    time.sleep(0.05)
    process.process.send_signal(number)
    code, _ = process.end()
    assert code == (130 if number == signal.SIGINT else 75)
    env_step = status_of(process.run_dir)["env_step"]
    assert UPDATING <= env_step < 48  # on its way, however late the signal was sent
    assert checkpoints(process.run_dir)[-1].name == f"step-{env_step:09d}"
    assert resume(process.run_dir) == 0
    assert_same_run(process.run_dir, straight_slow)


def _assert_saved(process, number, env_step):
    code, _ = process.end()
    assert code == (130 if number == signal.SIGINT else 75)
    found = status_of(process.run_dir)
    assert (found["state"], found["env_step"]) == ("interrupted", env_step)
    assert checkpoints(process.run_dir)[-1].name == f"step-{env_step:09d}"
