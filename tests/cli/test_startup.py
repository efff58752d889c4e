"""What the command line does without, so that it answers at once; nothing is timed here."""

import gc
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

import dime.cli.main
from dime.errors import DimeError
from dime.training.process import collector_paused
from tests import listed

# Each step is to bring none of its names along, in the process of those before it.
WITHOUT = """
import sys
from dime.cli.main import main
def answers(words, *without):
    try:
        assert main(words.split()) == 0
    except SystemExit as ended:
        assert not ended.code
    loaded = sorted({*without} & {*sys.modules})
    assert not loaded, (words, loaded)
SIMULATORS = ("mujoco", "dm_control", "myosuite", "mujoco_playground", "matplotlib")
for what in ("algorithms", "presets", "studies"):
    answers(f"list {what}", "jax", "numpy", "gymnasium", *SIMULATORS)
answers("resume --help", "jax", "numpy")
MODULES = ("gymnasium", "safetensors", "dime.envs", "dime.training.loop", "dime.training.run")
answers("train --help", *MODULES, *SIMULATORS)
answers("train dm_control/dog-run --help", "dime.training.loop", *SIMULATORS)
"""
LISTS_ENVIRONMENTS = """
import sys
from dime.cli.main import main
main(["list", "environments"])
assert not {"jax", "mujoco", "dm_control", "myosuite", "mujoco_playground"} & {*sys.modules}
"""


@pytest.mark.parametrize("code", [WITHOUT, LISTS_ENVIRONMENTS], ids=["help", "environments"])
def test_what_is_slow_to_import_is_left_out(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_python_m_dime_is_the_command():
    def answer(*words):
        command = [sys.executable, "-m", "dime", *words]
        return subprocess.run(command, capture_output=True, text=True)

    assert answer("--version").stdout == f"dime {dime.__version__}\n"
    refused = answer("trian")
    assert refused.returncode == 2 and "nearest: train" in refused.stderr


def test_the_tables_of_algorithms_are_those_of_the_algorithms():
    regenerate = "python -m tests.listed regenerates it"
    assert json.loads(listed.FILES["algorithms"].read_text()) == listed.algorithms(), regenerate
    page = listed.PAGE.read_text()
    assert page == listed.documented(page), regenerate


def test_garbage_is_collected_again_once_the_command_is_read(monkeypatch):
    seen = []
    command = SimpleNamespace(run=lambda: seen.append(gc.isenabled()))
    parse = lambda words: seen.append(gc.isenabled()) or command  # noqa: E731
    monkeypatch.setattr(dime.cli.main, "parse", parse)
    assert dime.cli.main.main([]) == 0
    assert seen == [False, True]
    with pytest.raises(DimeError), collector_paused():
        raise DimeError("refused")
    assert gc.isenabled()
    gc.disable()
    try:
        with collector_paused():
            pass
        assert not gc.isenabled()  # whoever switched it off keeps it so
    finally:
        gc.enable()
