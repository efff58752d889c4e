"""`dime train` in processes of their own, which wait, are told, or are killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dime.cli.main import main
from tests.training.runs import OPTIONS, as_words, shared_programs
from tests.training.walk import ID

ROOT = Path(__file__).parents[2]
ENTRY = """
import signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under nohup
from dime.cli.main import entry
entry()
"""
DIME = [sys.executable, "-c", ENTRY]


def words(**options):
    """What `dime` is told, less the run's folder."""
    return ["train", ID, "--no-video", *as_words(OPTIONS | options)]


def train(run_dir, **options):
    """The same run in this process."""
    with shared_programs():
        assert main([*words(**options), "--run-dir", str(run_dir)]) == 0
    return run_dir


def resume(run_dir):
    """Continues what a process began, in this one."""
    with shared_programs():
        return main(["resume", str(run_dir), "--no-video"])


class Training:
    """`dime train` in a process of its own, which waits at a step of one of its environments."""

    def __init__(self, folder, hold, cache, options):
        self.folder, self.run_dir = folder, folder / "run"
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": path}
        if hold:
            environment["WALK_HOLD"] = f"{hold[0]}:{hold[1]}:{folder}"
        if not cache:
            environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"
        self.process = subprocess.Popen(
            [*DIME, *words(**options), "--run-dir", str(self.run_dir)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for(self, file):
        give_up = time.monotonic() + 100.0
        while not (self.folder / file).exists():
            assert self.process.poll() is None, self.process.stdout.read()
            assert time.monotonic() < give_up
            time.sleep(0.01)

    def send(self, number):
        self.process.send_signal(number)
        time.sleep(0.5)  # the process's own thread takes it up

    def go(self):
        (self.folder / "go").touch()

    def end(self):
        """Exit status and what was printed."""
        printed, _ = self.process.communicate(timeout=100)
        return self.process.returncode, printed


@pytest.fixture
def training(tmp_path):
    """Starts a process; it is gone when the test is."""
    started = []

    def begin(hold=None, cache=True, **options):
        started.append(Training(tmp_path, hold, cache, options))
        return started[-1]

    yield begin
    for one in started:
        one.process.kill()
        one.process.wait()
        one.process.stdout.close()
