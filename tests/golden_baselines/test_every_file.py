"""No file of the folder goes untested."""

import pytest

from .golden import FILES, FOLDER, KINDS, kind_of

pytestmark = pytest.mark.promise("R15")


def test_there_are_golden_files():
    assert FILES, f"no .npz in {FOLDER}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_kind_is_known(path):
    assert kind_of(path.stem), f"{path} is of no kind that is tested: {', '.join(sorted(KINDS))}"


def test_the_longest_kind_counts():
    assert kind_of("crossq_two_updates") == "crossq"
    assert kind_of("dacer_entropy") == "dacer_entropy"
    assert kind_of("crossqs") is kind_of("unknown") is None
