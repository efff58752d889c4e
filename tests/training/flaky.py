"""Environments that fail by chance, or once at a place."""

import os
import subprocess
import time
from pathlib import Path

import numpy as np

from tests.training.walk import Walk


class Slipped(Exception):
    """What a user's environment may raise."""


class Flaky(Walk):
    """A walk that raises in one of `one_in` calls, by a generator that its makers share."""

    def __init__(self, rng, one_in):
        super().__init__()
        self.rng, self.one_in, self.log = rng, one_in, rng.log
        self.maybe("being made")

    def maybe(self, where):
        if self.rng.random() < 1 / self.one_in:
            self.rng.faults += 1
            raise Slipped(where)

    def reset(self, *, seed=None, options=None):
        self.maybe("reset")
        return super().reset(seed=seed)

    def step(self, action):
        self.maybe("step")
        return super().step(action)


class Chance(np.random.Generator):
    """A generator that counts the faults it has brought about, and keeps what was answered."""

    def __init__(self, seed):
        super().__init__(np.random.PCG64(seed))
        self.faults = 0
        self.log = []


class FailsOnce(Walk):
    """Fails as `how` says when any of its kind first takes its `step`-th step; a file remembers."""

    def __init__(self, folder, step, how):
        super().__init__()
        self.folder, self.at, self.how = Path(folder), step, how
        (self.folder / f"process-{os.getpid()}").touch()

    def step(self, action):
        if self.total_steps + 1 == self.at and not (self.folder / "failed").exists():
            (self.folder / "failed").touch()
            if self.how == "exits":
                os._exit(3)
            if self.how == "hangs":
                time.sleep(1000)
            raise Slipped("the floor is wet")
        return super().step(action)


class Meets(Walk):
    """Answers a step only when as many of its kind as `number` are in that step of theirs."""

    def __init__(self, folder, number):
        super().__init__()
        self.folder, self.others = Path(folder), number

    def step(self, action):
        meeting = self.folder / f"step-{self.total_steps}"
        meeting.mkdir(exist_ok=True)
        (meeting / str(os.getpid())).touch()
        while len(list(meeting.iterdir())) < self.others:
            time.sleep(0.001)
        return super().step(action)


class Closes(Walk):
    """Leaves a file when it is closed."""

    def __init__(self, folder):
        super().__init__()
        self.folder = Path(folder)

    def close(self):
        (self.folder / "closed").touch()


class AlwaysHangs(Walk):
    """Never answers a step."""

    def step(self, action):
        time.sleep(1000)
        return super().step(action)


class HangsInC(Walk):
    """Never answers a step, and lets no other thread of its process run."""

    def step(self, action):
        return sum(range(10**12))


class OldFashioned(Walk):
    """Has other names and fewer arguments than `gymnasium.Env`, as many environments have."""

    def reset(self, seed=None):
        return super().reset(seed=seed)

    def step(self, u):
        return super().step(u)


class Simulator(Walk):
    """Starts a program of its own, whose id it writes down; cannot be closed in order."""

    def __init__(self, folder):
        super().__init__()
        self.program = subprocess.Popen(["sleep", "1000"])
        (Path(folder) / "program").write_text(str(self.program.pid))

    def reset(self, *, seed=None, options=None):
        if seed == 1:
            self.program.terminate()  # as it would in this process
            self.program.wait(timeout=20)
        return super().reset(seed=seed)

    def close(self):
        raise Slipped("the door is stuck")
