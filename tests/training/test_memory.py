"""What does not fit into memory is refused before anything is allocated, with what would fit."""

import re

import jax
import pytest

import dime.training.machine as machine
import dime.training.run
from dime.errors import DimeError
from dime.training.config import TrainingConfig
from dime.training.host.learners import HostLearners
from dime.training.machine import available_bytes, refuse_if_too_large
from dime.types import EnvSpec
from tests.training.runs import resume, start
from tests.training.toy import ToyConfig, toy

SPEC = EnvSpec(obs_dim=3, action_dim=2)
AGENT = toy(ToyConfig(), SPEC)
ROW = 4 * (3 + 2 + 1 + 3) + 1  # bytes of a transition


DRAWN = 2 * 256 * ROW  # the minibatches of an env step


def training_bytes():
    """The state twice, and what is drawn."""
    leaves = jax.tree.leaves(AGENT.init(jax.random.key(0)))
    return 2 * sum(leaf.nbytes for leaf in leaves) + DRAWN


def config(num_seeds, capacity=1000):
    return TrainingConfig(seeds=tuple(range(num_seeds)), replay_capacity=capacity)


@pytest.mark.parametrize("capacity", [1000, 1001])
def test_seeds_that_do_not_fit_are_refused(capacity, monkeypatch):
    seed = capacity * ROW + training_bytes()
    monkeypatch.setattr(machine, "available_bytes", lambda: 3 * seed + 1)
    refuse_if_too_large(AGENT, config(3, capacity), SPEC, 3)
    with pytest.raises(DimeError, match="4 seeds need .* smaller replay_capacity"):
        refuse_if_too_large(AGENT, config(4, capacity), SPEC, 4)


def test_a_short_run_needs_no_more_than_its_own_transitions(monkeypatch):
    monkeypatch.setattr(machine, "available_bytes", lambda: 20 * ROW + training_bytes())
    refuse_if_too_large(AGENT, TrainingConfig(num_env_steps=20), SPEC, 1)
    with pytest.raises(DimeError):
        refuse_if_too_large(AGENT, TrainingConfig(num_env_steps=21), SPEC, 1)


def test_a_run_is_refused_before_its_folder_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "available_bytes", lambda: 1000)
    monkeypatch.setattr(HostLearners, "begin", lambda learners: pytest.fail("it began"))
    with pytest.raises(DimeError, match="need .* of memory"):
        start(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_counts_the_seeds_that_go_on(tmp_path, monkeypatch):
    """And an accelerator that does not say what it has refuses nothing."""
    start(tmp_path / "run", callback=lambda record: record["env_step"] == 20, seeds=[0, 7])
    told = []
    monkeypatch.setattr(dime.training.run, "refuse_if_too_large", lambda *a: told.append(a[3]))
    resume(tmp_path / "run", num_env_steps=49)
    assert told == [2]

    class Silent:
        platform = "gpu"

        def memory_stats(self):
            return None

    monkeypatch.setattr(machine.jax, "devices", lambda: [Silent()])
    assert available_bytes() == float("inf")


def test_what_the_machine_has_left():
    with open("/proc/meminfo") as file:
        total = 1024 * sum(map(int, re.findall(r"(?:Mem|Swap)Total:\s+([0-9]+) kB", file.read())))
    assert 50e6 < available_bytes() < total


def test_a_container_has_less(tmp_path, monkeypatch):
    limit, use = tmp_path / "max", tmp_path / "stat"
    monkeypatch.setattr(machine, "_LIMIT_FILE", limit)
    monkeypatch.setattr(machine, "_USE_FILE", use)
    without = available_bytes()
    limit.write_text("max\n")
    use.write_text("anon 1000\nfile 900000000\n")
    assert available_bytes() > 0.5 * without
    limit.write_text("5000000\n")
    assert available_bytes() == 4999000
    limit.write_text("500\n")
    assert available_bytes() == 0
