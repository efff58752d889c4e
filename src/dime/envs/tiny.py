"""Two small environments with several equally good ways to act, for tests and for figures.

Importing `dime.envs` registers both with Gymnasium.
"""

import math
from typing import Any

import gymnasium
import numpy as np

TINY_IDS = ["dime/MultiGoal-v0", "dime/TwoModeBandit-v0"]
_WEIGHTS, _MEANS, _STD = np.array([0.3, 0.7]), np.array([-0.5, 0.5]), 0.1
_MASS_INSIDE = 0.5 * (1.0 + math.erf(5.0 / math.sqrt(2.0)))  # of either Gaussian, in [-1, 1]
_PIXELS = 256  # images are square, of even size for video codecs
_WHITE, _GREY, _RED, _BLUE = (255, 255, 255), (170, 170, 170), (200, 40, 40), (40, 80, 200)


def two_mode_log_density(action: np.ndarray) -> np.ndarray:
    """Log density on [-1, 1] of 0.3 N(-0.5, 0.1^2) + 0.7 N(0.5, 0.1^2), cut off at the ends.

    In nats, in the shape of `action`; between -12.5 (ends and middle) and 1.03.

    >>> grid = np.linspace(-1.0, 1.0, 20001)
    >>> float(np.trapezoid(np.exp(two_mode_log_density(grid)), grid).round(6))
    1.0
    """
    z = (np.asarray(action, np.float64)[..., None] - _MEANS) / _STD
    log_normals = np.log(_WEIGHTS) - 0.5 * z**2 - math.log(_STD * math.sqrt(2.0 * math.pi))
    mixture = np.logaddexp(log_normals[..., 0], log_normals[..., 1])
    return np.asarray(mixture - math.log(_MASS_INSIDE))


class TwoModeBandit(gymnasium.Env):
    """One action in [-1, 1], one reward, one constant observation; every step terminates.

    The reward is `two_mode_log_density(action)`, so the policy that maximises reward plus T times
    entropy is known: it is proportional to that density to the power 1/T.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}
    max_episode_steps = 1

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._action: float | None = None

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        """The constant observation; there is nothing to seed."""
        super().reset(seed=seed)
        self._action = None
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """The log density of the action, in nats."""
        self._action = float(np.clip(action[0], -1.0, 1.0))
        reward = float(two_mode_log_density(np.array(self._action)))
        return np.zeros(1, np.float32), reward, True, False, {}

    def render(self) -> np.ndarray:
        """The density as a blue hill, the last action as a red line."""
        grid = np.linspace(-1.0, 1.0, _PIXELS)
        density = np.exp(two_mode_log_density(grid))
        height = 0.9 * density / density.max()
        rows = np.linspace(1.0, 0.0, _PIXELS)[:, None]
        picture = np.where((rows <= height)[..., None], _BLUE, _WHITE).astype(np.uint8)
        if self._action is not None:
            picture[:, np.argmin(np.abs(grid - self._action))] = _RED
        return picture


class MultiGoal(gymnasium.Env):
    """A point on a plane with four equally good goals, at (+-5, 0) and (0, +-5).

    The multi-goal task of soft Q-learning (Haarnoja et al. 2017, "Reinforcement Learning with Deep
    Energy-Based Policies"): starts at N(0, 0.1^2), the action is the displacement, at most 1 in
    each direction; the position is kept within +-7. The reward is

        0.1 * (-(squared distance to the nearest goal) - 30 |action|^2) + 10 at a goal,

    and coming within 1 of a goal terminates. Walking straight to a goal returns -3.3 at the best
    speed (0.6 a step); random actions return about -80.

    Unlike in the paper, rewards are scaled by 0.1 except the bonus of 10, the displacement has no
    noise, and an episode is truncated after 30 steps.

    Observations are the position, (2,). `info` has `position` and `success` (a goal was reached).
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    goals = np.array([[5.0, 0.0], [-5.0, 0.0], [0.0, 5.0], [0.0, -5.0]])
    limit = 7.0
    goal_radius = 1.0
    goal_bonus = 10.0
    action_cost = 30.0
    reward_scale = 0.1
    start_std = 0.1

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(-self.limit, self.limit, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._path: list[np.ndarray] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        """Puts the point near the origin."""
        super().reset(seed=seed)
        self._path = [self.np_random.normal(0.0, self.start_std, 2)]
        return self._observed(success=False)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Moves the point by the action."""
        move = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        position = np.clip(self._path[-1] + move, -self.limit, self.limit)
        self._path.append(position)
        squared_distance = ((position - self.goals) ** 2).sum(axis=1).min()
        reward = -self.reward_scale * (squared_distance + self.action_cost * (move @ move))
        reached = bool(squared_distance < self.goal_radius**2)
        if reached:
            reward += self.goal_bonus
        obs, info = self._observed(reached)
        return obs, float(reward), reached, False, info

    def render(self) -> np.ndarray:
        """The goals as red discs, the path so far as blue dots, the bounds of the plane."""
        axis = np.linspace(-self.limit, self.limit, _PIXELS)
        pixels = np.stack(np.meshgrid(axis, axis[::-1]), axis=-1)
        picture = np.full((_PIXELS, _PIXELS, 3), _WHITE, np.uint8)
        picture[[0, -1], :] = picture[:, [0, -1]] = _GREY
        goals, path = (self.goals, self.goal_radius, _RED), (self._path, 0.15, _BLUE)
        for centres, radius, colour in (goals, path):
            for centre in centres:
                picture[((pixels - centre) ** 2).sum(axis=-1) < radius**2] = colour
        return picture

    def _observed(self, success: bool) -> tuple[np.ndarray, dict[str, Any]]:
        position = self._path[-1]
        return position.astype(np.float32), {"position": position.copy(), "success": success}


if TINY_IDS[0] not in gymnasium.registry:
    gymnasium.register("dime/MultiGoal-v0", f"{__name__}:MultiGoal", max_episode_steps=30)
    gymnasium.register("dime/TwoModeBandit-v0", f"{__name__}:TwoModeBandit")
