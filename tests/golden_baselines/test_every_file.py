"""No file of the folder goes untested."""

import importlib

import numpy as np
import pytest

from .golden import FILES, FOLDER, KINDS, Golden, assert_recorded, every_array_is_read, kind_of

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


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_array_of_the_kind_is_read(kind):
    module = importlib.import_module(f"{__package__}.test_{kind}")
    assert list(vars(module))[-1] == "test_every_array_is_read"
    assert module.test_every_array_is_read is every_array_is_read


def test_an_array_behind_a_misspelt_name_is_unread(tmp_path):
    np.savez(tmp_path / "one.npz", **{"info0/loss": 1.0, "info0/note": 2.0, "grad0/critic/b": 3.0})
    golden = Golden(tmp_path / "one.npz")
    assert_recorded(golden, "info0/los", 1.0, 1e-6)
    assert "grad0/critic" in golden
    assert golden.arrays.get("info0/loss") == 1.0
    assert golden.unread(["*/note"]) == ["grad0/critic/b", "info0/loss"]
    assert_recorded(golden, "info0/loss", 1.0, 1e-6)
    assert golden.unread() == ["grad0/critic/b", "info0/note"]
