"""Fixtures for several folders of tests."""

import pytest

from tests.training.runs import Brake, start


@pytest.fixture(scope="session")
def straight(tmp_path_factory):
    """A run of one seed that nobody disturbed."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert start(folder).state == "finished"
    return folder


@pytest.fixture
def brake(monkeypatch):
    """What stops a run that goes on in this process."""
    return Brake(monkeypatch)
