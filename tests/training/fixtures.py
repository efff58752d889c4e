"""Fixtures for several folders of tests."""

import equinox as eqx
import pytest

from dime.training.host.learners import HostLearners, OverlapLearners
from tests.training.runs import DIME, Brake, start


@pytest.fixture(scope="session")
def straight(tmp_path_factory):
    """A run of one seed that nobody disturbed."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert start(folder).state == "finished"
    return folder


@pytest.fixture(scope="session")
def dime_run(tmp_path_factory):
    """The same of DIME."""
    folder = tmp_path_factory.mktemp("dime") / "run"
    assert start(folder, **DIME).state == "finished"
    return folder


@pytest.fixture
def brake(monkeypatch):
    """What stops a run that goes on in this process."""
    return Brake(monkeypatch)


@pytest.fixture
def poison(monkeypatch):
    """`poison(env_step, seed)`: one weight of the seed becomes NaN before that step."""

    def arm(env_step, seed):
        for kind in (HostLearners, OverlapLearners):
            monkeypatch.setattr(kind, "step", poisoned(kind.step, env_step, seed))

    return arm


def poisoned(step, at, seed):
    """The step of learners, before which one weight of the seed becomes NaN at this env step."""

    def poisoned_step(learners, at_most):
        if learners.env_step == at - 1 and seed in learners.seeds:
            index = learners.seeds.index(seed)
            learners.state = eqx.tree_at(
                lambda state: state["weight"],
                learners.state,
                replace_fn=lambda weight: weight.at[index, 0, 0].set(float("nan")),
            )
        return step(learners, at_most)

    return poisoned_step
