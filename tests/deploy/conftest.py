"""Fixtures of this folder's tests."""

import pytest

from tests.training.fixtures import brake, straight  # noqa: F401


@pytest.fixture(autouse=True, scope="module")
def quickly(quick_compilation):
    """What these tests run is compiled once and run briefly."""
