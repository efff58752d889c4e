"""dm_control's suite as Gymnasium environments.

The observation is concatenated in dm_control's own key order into one float32 array, kept between
steps: flattening a Dict space costs as much time as the physics of dog-run.
"""

import math
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from dime.envs.rendering import choose_renderer
from dime.errors import DimeError

if TYPE_CHECKING:
    from dm_control.rl import control
    from dm_env import specs

PREFIX = "dm_control/"
_UNLIMITED = 1e10  # mujoco.mjMAXVAL, which dm_control writes for an actuator without limits
_ADAPTER_OPTIONS = ("render_mode", "camera_id", "height", "width")


class DmControlEnv(gymnasium.Env):
    """A dm_control environment with a flat float32 observation.

    `env` is what `dm_control.suite.load` returns; `camera_id` a camera's number or name, -1 the
    free camera; `height` and `width` are those of an image, in pixels. It renders in either
    `render_mode`, "rgb_array" or None.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(
        self,
        env: "control.Environment",
        *,
        render_mode: str | None = None,
        camera_id: int | str = 0,
        height: int = 480,
        width: int = 480,
    ):
        self.dm_env = env
        self.render_mode = render_mode
        self.max_episode_steps = _step_limit(env)
        self.metadata = self.metadata | {"render_fps": round(1.0 / env.control_timestep())}
        self._view = {"camera_id": camera_id, "height": height, "width": width}
        self._layout, size = _layout(env.observation_spec())
        self._flat = np.zeros(size, np.float32)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = _action_box(env.action_spec())

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        """Starts an episode; the same seed gives the same one, bit for bit."""
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
            for key, place in self._layout:
                self._flat[place] = np.ravel(observation[key])
        return self._flat.copy()


def make_dm_control(id: str, kwargs: dict[str, Any]) -> gymnasium.Env | None:
    """Makes `dm_control/<domain>-<task>`, if there is one; kwargs go to the adapter or the task."""
    choose_renderer()
    from dm_control import suite

    domain, _, task = id.removeprefix(PREFIX).partition("-")
    if (domain, task) not in suite.ALL_TASKS:
        return None
    adapter = {key: kwargs[key] for key in _ADAPTER_OPTIONS if key in kwargs}
    kwargs = {key: value for key, value in kwargs.items() if key not in adapter}
    environment_kwargs = kwargs.pop("environment_kwargs", None)
    env: Any = suite.load(domain, task, kwargs, environment_kwargs)
    return DmControlEnv(env, **adapter)


def _layout(spec: Any) -> tuple[list[tuple[str, slice]], int]:
    sizes = [math.prod(part.shape) for part in spec.values()]  # shape () is one number
    stops = list(accumulate(sizes, initial=0))
    return list(zip(spec, map(slice, stops, stops[1:]), strict=True)), stops[-1]


def _action_box(spec: "specs.BoundedArray") -> gymnasium.spaces.Box:
    bounds = np.stack([np.broadcast_to(end, spec.shape) for end in (spec.minimum, spec.maximum)])
    bounds = np.where(np.abs(bounds) >= _UNLIMITED, np.copysign(np.inf, bounds), bounds)
    return gymnasium.spaces.Box(*bounds, dtype=spec.dtype.type)


def _step_limit(env: "control.Environment") -> int | None:
    # Not time_limit / control_timestep: dm_control divides otherwise and compares with >=, so that
    # rounding decides about a step.
    limit = getattr(env, "_step_limit", math.inf)
    return math.ceil(limit) if math.isfinite(limit) else None
