"""dm_control's suite as Gymnasium environments.

The observation is one float32 array, in dm_control's own key order: flattening a Dict space takes
as much time as the physics of dog-run.
"""

import math
from typing import Any

import gymnasium
import numpy as np

from dime.envs.rendering import choose_renderer
from dime.errors import DimeError

_VIEW = {"camera_id": 0, "height": 480, "width": 480}
_UNLIMITED = 1e10  # mujoco.mjMAXVAL, which dm_control writes for an actuator without limits


class DmControlEnv(gymnasium.Env):
    """A dm_control environment with a flat float32 observation.

    `view` has the `camera_id` (a number or a name, -1 is the free camera) and the `height` and
    `width` of images, in pixels.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, env: Any, render_mode: str | None, view: dict[str, Any]):
        self.dm_env = env
        self.render_mode = render_mode
        self.max_episode_steps = _step_limit(env)
        self.metadata = self.metadata | {"render_fps": round(1.0 / env.control_timestep())}
        self._view = view
        # The shape () is one number.
        size = sum(math.prod(part.shape) for part in env.observation_spec().values())
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = _action_box(env.action_spec())

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        """Starts the episode of this seed, the same one bit for bit each time."""
        super().reset(seed=seed)
        if seed is not None:
            self.dm_env.task.random.seed(seed)
        return self._concatenated(self.dm_env.reset().observation), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One control step; an episode's end with discount 0 is terminated, else truncated."""
        timestep = self.dm_env.step(action)
        if timestep.first():
            raise DimeError("The episode is over (or never began): call reset() first.")
        last = timestep.last()
        terminated = last and timestep.discount == 0.0
        obs = self._concatenated(timestep.observation)
        return obs, timestep.reward, terminated, last and not terminated, {}

    def render(self) -> np.ndarray:
        """What the camera sees, uint8 (height, width, 3)."""
        return self.dm_env.physics.render(**self._view)

    def close(self) -> None:
        """Frees the physics and its OpenGL contexts."""
        self.dm_env.close()
        self.dm_env.physics.free()

    def _concatenated(self, observation: Any) -> np.ndarray:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
            parts = [np.ravel(part) for part in observation.values()]
            return np.concatenate(parts, dtype=np.float32, casting="same_kind")


def make_dm_control(
    id: str, /, render_mode: str | None = None, **kwargs: Any
) -> gymnasium.Env | None:
    """Makes `dm_control/<domain>-<task>`, if there is one; kwargs go to the camera or the task."""
    choose_renderer()
    from dm_control import suite

    domain, _, task = id.removeprefix("dm_control/").partition("-")
    if (domain, task) not in suite.ALL_TASKS:
        return None
    view = {name: kwargs.pop(name, default) for name, default in _VIEW.items()}
    environment_kwargs = kwargs.pop("environment_kwargs", None)
    env: Any = suite.load(domain, task, kwargs, environment_kwargs)
    return DmControlEnv(env, render_mode, view)


def _action_box(spec: Any) -> gymnasium.spaces.Box:
    bounds = np.stack([np.broadcast_to(end, spec.shape) for end in (spec.minimum, spec.maximum)])
    bounds = np.where(np.abs(bounds) >= _UNLIMITED, np.copysign(np.inf, bounds), bounds)
    return gymnasium.spaces.Box(*bounds, dtype=spec.dtype.type)


def _step_limit(env: Any) -> int | None:
    # Not time_limit / control_timestep: dm_control divides otherwise and compares with >=, so that
    # rounding decides about a step.
    limit = getattr(env, "_step_limit", math.inf)
    return math.ceil(limit) if math.isfinite(limit) else None
