"""A small environment that can be held, poisoned or broken at any of its steps.

Importing this module registers `Walk-v0`, so that a process of its own can train on
`tests.training.walk:Walk-v0`. There the environment variable WALK_HOLD = "number:step:folder" makes
the number-th environment of the process wait at its step-th step: it writes `folder/reached` and
goes on when `folder/go` is there. WALK_HOLD may also name a file that holds this once it exists.
"""

import itertools
import os
import time
from pathlib import Path

import gymnasium
import numpy as np

from dime.envs.environment import Environment
from dime.training.host.episodes import why_not_repeatable

ID = "tests.training.walk:Walk-v0"
EPISODE_STEPS = 7


class Walk(gymnasium.Env):
    """A point with momentum, pushed about by noise of its own; an episode has up to 7 steps.

    As with a physics engine, what is observed (the position) is less than what it is in: it has a
    velocity too. It terminates outside of [-1, 1], and is truncated after 7 steps. `before_step` is
    called with the environment; a dict that it returns replaces parts of the answer ("obs",
    "reward"). `total_steps` counts over all episodes; `log` holds what was answered; `closed` says
    whether it was.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    max_episode_steps = EPISODE_STEPS

    def __init__(self, number=0, before_step=None, render_mode=None):
        box = gymnasium.spaces.Box
        self.observation_space = box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = box(-1.0, 1.0, (2,), np.float32)
        self.number, self.before_step, self.render_mode = number, before_step, render_mode
        self.total_steps = 0
        self.closed = False
        self.log = []
        self.reset_seeds = []
        self.position = self.velocity = np.zeros(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.reset_seeds.append(seed)
        self.position = self.np_random.normal(0.0, 0.3, 2)
        self.velocity = self.np_random.normal(0.0, 0.1, 2)
        self.steps = 0
        return self.position.astype(np.float32), {}

    def step(self, action):
        self.total_steps += 1
        replaced = (self.before_step and self.before_step(self)) or {}
        obs = self.position.astype(np.float32)
        self.steps += 1
        noise = self.np_random.normal(0.0, 0.05, 2)
        self.velocity = 0.8 * self.velocity + 0.3 * np.asarray(action, np.float64) + noise
        self.position = self.position + self.velocity
        next_obs = replaced.get("obs", self.position.astype(np.float32))
        reward = replaced.get("reward", float(1.0 - self.position @ self.position))
        terminated = bool(np.abs(self.position).max() > 1.0)
        truncated = self.steps >= EPISODE_STEPS and not terminated
        self.log.append((obs, np.array(action), reward, next_obs, terminated, truncated))
        return next_obs, reward, terminated, truncated, {}

    def render(self):
        picture = np.full((32, 32, 3), 255, np.uint8)
        row, column = np.clip((self.position * 12 + 16).astype(int), 0, 31)
        picture[row, column] = 0
        return picture

    def close(self):
        self.closed = True


def walks(before_step=None):
    """A factory of walks, numbered in the order they are made: a run's training comes first.

    `factory.made` are the walks so far.
    """

    def make_walk():
        make_walk.made.append(Walk(len(make_walk.made), before_step))
        return make_walk.made[-1]

    make_walk.made = []
    return make_walk


def steps_of_the_trial():
    """How many steps an evaluating walk has taken before its first evaluation."""
    tried = Walk()
    assert why_not_repeatable(Environment(tried)) is None
    return tried.total_steps


def at(number, step, do):
    """A `before_step` that calls `do()` at the number-th walk's step-th step."""

    def before_step(walk):
        return do() if (walk.number, walk.total_steps) == (number, step) else None

    return before_step


_numbers = itertools.count()


def _registered(render_mode=None, nan_at=None):
    number = next(_numbers)
    if nan_at is not None:
        return Walk(number, at(number, nan_at, lambda: {"reward": np.nan}), render_mode)
    hold = os.environ.get("WALK_HOLD", "")
    if hold and ":" not in hold:
        hold = Path(hold).read_text() if Path(hold).exists() else ""
    held, step, folder = (hold or "-1:0:").split(":", 2)
    return Walk(number, at(int(held), int(step), lambda: _hold(Path(folder))), render_mode)


def _hold(folder):
    (folder / "reached").touch()
    give_up = time.monotonic() + 100.0
    while not (folder / "go").exists() and time.monotonic() < give_up:
        time.sleep(0.01)


if "Walk-v0" not in gymnasium.registry:
    gymnasium.register("Walk-v0", _registered)
