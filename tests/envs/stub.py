"""A small environment whose answers a test can choose."""

import gymnasium
import numpy as np

Box = gymnasium.spaces.Box


class Stub(gymnasium.Env):
    """Observes the step number, rewards 1; what `answers` holds for a step replaces that.

    `answers[step]` may have obs, reward, terminated, truncated, info; step 0 is the reset.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, answers=None, observation_space=None, action_space=None, render_mode=None):
        self.answers = answers or {}
        default = Box(-np.inf, np.inf, (2,), np.float64)
        self.observation_space = default if observation_space is None else observation_space
        self.action_space = action_space or Box(-2.0, 2.0, (1,), np.float32)
        self.render_mode = render_mode
        self.actions = []
        self.buffer = np.zeros(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        self.buffer[:] = 0.0
        return self.answers.get(0, {}).get("obs", self.buffer), {}

    def step(self, action):
        self.steps += 1
        self.actions.append(action)
        self.buffer[:] = self.steps
        answer = self.answers.get(self.steps, {})
        return (
            answer.get("obs", self.buffer),
            answer.get("reward", 1.0),
            answer.get("terminated", False),
            answer.get("truncated", False),
            answer.get("info", {}),
        )

    def render(self):
        return np.full((4, 6, 3), 7, np.uint8)
