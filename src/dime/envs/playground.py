"""MuJoCo Playground's version of the DM Control Suite, which JAX computes."""

import json
from functools import lru_cache
from typing import Any

import gymnasium
import jax
import numpy as np

from dime.envs.jax_env import JaxEnv
from dime.envs.messages import UnknownIdError, tidy_warnings
from dime.envs.rendering import choose_renderer
from dime.errors import DimeError

PREFIX = "playground/"
# In water. MJX 3.6, which MyoSuite's MuJoCo needs, passes clip() a name that JAX has given up.
_BROKEN = ("FishSwim", "SwimmerSwimmer6")
_ADAPTER_OPTIONS = ("render_mode", "camera", "height", "width")


class PlaygroundEnv(JaxEnv):
    """One of Playground's environments, with pictures.

    Args:
        task: what Playground's `load` returns.
        max_episode_steps: after so many steps an episode is truncated.
        render_mode: "rgb_array" or None; rendering works either way.
        camera: a camera's name; by default the model's first one, else the free camera.
        height: of a picture, in pixels.
        width: of a picture, in pixels.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(
        self,
        task: Any,
        max_episode_steps: int,
        *,
        render_mode: str | None = None,
        camera: str | None = None,
        height: int = 480,
        width: int = 480,
    ):
        super().__init__(task, max_episode_steps)
        self.render_mode = render_mode
        self.metadata = self.metadata | {"render_fps": round(1.0 / task.dt)}
        self._model = task.mj_model
        cameras = [self._model.camera(index).name for index in range(self._model.ncam)]
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode is {render_mode!r}; it must be 'rgb_array' or None")
        if camera is not None and camera not in cameras:
            raise ValueError(f"there is no camera {camera!r}; there are: {cameras}")
        if not all(type(size) is int and size > 0 for size in (height, width)):
            raise ValueError(f"a picture cannot be {height!r} x {width!r} pixels")
        self._camera: str | int = camera or (cameras[0] if cameras else -1)
        self._height, self._width = height, width
        self._renderer: Any = None

    def render(self) -> np.ndarray:
        """What the camera sees, uint8 (height, width, 3)."""
        import mujoco as untyped_mujoco

        mujoco: Any = untyped_mujoco
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self._model, self._height, self._width)
        seen = mujoco.MjData(self._model)
        now = self.state.data
        seen.qpos, seen.qvel = np.asarray(now.qpos), np.asarray(now.qvel)
        seen.mocap_pos, seen.mocap_quat = np.asarray(now.mocap_pos), np.asarray(now.mocap_quat)
        mujoco.mj_forward(self._model, seen)
        self._renderer.update_scene(seen, camera=self._camera)
        return self._renderer.render()

    def close(self) -> None:
        """Frees the OpenGL context."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def make_playground(id: str, kwargs: dict[str, Any]) -> gymnasium.Env:
    """Makes `playground/<Task>`; kwargs go to the adapter or override the task's own config.

    Raises:
        UnknownIdError: there is no such task.
        KeyError: its config has no such entry.
        TypeError, ValueError: an entry cannot have this value.
        DimeError: Playground is not installed.
    """
    name = id.removeprefix(PREFIX)
    if name not in _suite().ALL_ENVS:
        raise UnknownIdError(id)
    adapter = {key: kwargs[key] for key in _ADAPTER_OPTIONS if key in kwargs}
    overrides = {key: value for key, value in kwargs.items() if key not in adapter}
    if jax.default_backend() == "cpu":  # the tasks' own choice, Warp, needs a GPU of NVIDIA's
        overrides.setdefault("impl", "jax")
    if name in _BROKEN and overrides.get("impl") == "jax":
        raise DimeError(
            f"{id} does not work with impl='jax': MJX 3.6 computes fluids with a call that JAX no "
            "longer has. On a GPU of NVIDIA's impl='warp' does without it."
        )
    task, max_episode_steps = _load(name, json.dumps(overrides, sort_keys=True))
    return PlaygroundEnv(task, max_episode_steps, **adapter)


@lru_cache(maxsize=16)  # a task is stateless, and its programs take long to compile
def _load(name: str, overrides: str) -> tuple[Any, int]:
    suite = _suite()
    config = suite.get_default_config(name).lock()
    given = json.loads(overrides)
    if unknown := sorted({key.split(".")[0] for key in given} - set(config)):
        raise KeyError(f"there is no {unknown[0]!r}; there are: {', '.join(sorted(config))}")
    config.update_from_flattened_dict(given)
    _check(config)
    with tidy_warnings():
        task = suite.load(name, config)
    return task, int(config.episode_length)


def _check(config: Any) -> None:
    """Raises `ValueError` for values with which a task would run, but not as one expects."""
    substeps = config.ctrl_dt / config.sim_dt if config.sim_dt > 0 else 0.0
    if round(substeps) < 1 or abs(substeps - round(substeps)) > 1e-6:
        raise ValueError(
            f"ctrl_dt {config.ctrl_dt} must be a multiple of sim_dt {config.sim_dt}, both above 0"
        )
    if config.action_repeat != 1:
        raise ValueError("actions are not repeated here; a longer ctrl_dt does the same")
    if config.vision:
        raise ValueError("observations of pictures are not supported")
    if config.impl == "warp" and jax.default_backend() == "cpu":
        raise ValueError("impl='warp' needs a GPU of NVIDIA's; a CPU has impl='jax'")


def _suite() -> Any:
    choose_renderer()
    try:
        with tidy_warnings():
            from mujoco_playground import dm_control_suite
    except ImportError as error:
        raise DimeError(
            f"MuJoCo Playground is not installed ({error}); pip install 'dime-rl[playground]' "
            "brings it."
        ) from error
    return dm_control_suite
