"""From a name to an algorithm, and what an algorithm of one's own must be."""

import dataclasses
import sys
from types import ModuleType

import pytest

import dime
from dime.algorithms.algorithm import Preset
from dime.algorithms.registry import ALGORITHMS, find_algorithm, with_presets
from dime.errors import DimeError
from tests.training.toy import TOY
from tests.training.walk import walks


@pytest.fixture
def mine(monkeypatch):
    """A module of one's own, into which a test puts algorithms."""
    module = ModuleType("mine")
    monkeypatch.setitem(sys.modules, "mine", module)
    return module


def test_listed_by_name_and_found_in_modules(mine):
    assert find_algorithm("dime") is ALGORITHMS["dime"]
    assert all(name == algorithm.name for name, algorithm in ALGORITHMS.items())
    mine.TOY = TOY
    assert find_algorithm("mine:TOY") is TOY


def test_presets_of_the_file_are_added_to_an_algorithms_own():
    own = {"laptop": Preset(training={"batch_size": 7}), "paper": Preset({"discount": 0.5})}
    merged = with_presets(dataclasses.replace(ALGORITHMS["sac"], presets=own)).presets
    of_file = with_presets(dataclasses.replace(ALGORITHMS["sac"], presets={})).presets
    assert of_file == ALGORITHMS["sac"].presets and "paper" in of_file
    assert merged == own | of_file
    mine = dataclasses.replace(TOY, presets=own)  # which the file does not name
    assert with_presets(mine).presets == own


@pytest.mark.parametrize(
    "name, words",
    [
        ("DIME", "nearest: dime"),
        ("qvop", "nearest: qvpo"),
        ("mine:TOYS", "no dime.Algorithm in the module 'mine' 'TOYS'. There are: TOY"),
        ("mine:", "There are: TOY"),
        ("no_such_module:TOY", "PYTHONPATH"),
        (":TOY", "cannot be imported"),
    ],
)
def test_what_cannot_be_found_is_refused(mine, name, words):
    mine.TOY, mine.OTHER = TOY, 3
    with pytest.raises(DimeError) as refused:
        find_algorithm(name)
    assert words in str(refused.value)


def test_a_module_that_raises_is_refused_with_its_reason(tmp_path, monkeypatch):
    (tmp_path / "raising_module.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DimeError, match="not_there_at_all") as refused:
        find_algorithm("raising_module:X")
    assert "PYTHONPATH" not in str(refused.value)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"modes": ()}, "at least one"),
        ({"modes": ("stochastic", "stochastic")}, "different names"),
        ({"modes": ("stochastic", "explore")}, "without 'explore'"),
        ({"config": int}, "must be a dataclass"),
        ({"presets": {"labtop": dime.Preset()}}, "nearest: laptop"),
    ],
)
def test_an_algorithm_that_cannot_work_is_refused(change, words):
    with pytest.raises(DimeError, match=words):
        dataclasses.replace(TOY, **change)


def refuse(config, spec):
    raise DimeError("mine refuses")


@pytest.mark.parametrize(
    "change, words",
    [
        ({"make": refuse}, "mine refuses"),
        ({"make": lambda config, spec: 3}, "it made int"),
        ({"modes": ("stochastic", "greedy")}, "it made .*'best_of_n'"),
    ],
)
def test_an_agent_that_cannot_work_is_refused_before_a_folder_is_made(
    mine, change, words, tmp_path
):
    mine.BROKEN = dataclasses.replace(TOY, **change)
    with pytest.raises(DimeError, match=words):
        dime.train(walks(), "mine:BROKEN", "laptop", run_dir=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_field_that_every_run_has_is_refused(mine):
    @dataclasses.dataclass(frozen=True)
    class Colliding:
        batch_size: int = 3

    mine.COLLIDING = dataclasses.replace(TOY, config=Colliding)
    with pytest.raises(DimeError, match="'batch_size', which is an option of every run"):
        dime.train(walks(), "mine:COLLIDING", "laptop")
