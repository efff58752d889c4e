"""Environments that JAX computes, which can therefore run in one program with the learner."""

import json
from functools import lru_cache, partial
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import gymnasium
import jax
import numpy as np

from dime.envs.rendering import ModelCamera, choose_renderer
from dime.errors import DimeError, describe, require, require_at_least

_VIEW = {"camera": None, "height": 480, "width": 480}


@runtime_checkable  # for those who check types while they run
class JaxTask(Protocol):
    """A task as MuJoCo Playground and Brax write it: pure functions of a state that is a pytree.

    A state has `obs` (obs,), `reward` () and `done` (), which is 1 once the MDP has ended, but not
    at a time limit; `reset` and `step` give states of the same structure, shapes and dtypes.
    """

    @property
    def action_size(self) -> int:
        """Length of an action; actions lie in [-1, 1]."""
        ...

    def reset(self, rng: Any) -> Any:
        """The first state of the episode that a key of `jax.random.PRNGKey` determines."""
        ...

    def step(self, state: Any, action: Any) -> Any:
        """The state after a step."""
        ...


def reset_task(task: JaxTask, rng: Any) -> Any:
    """The task's first state, its products in float32 whatever the learner's are."""
    with jax.default_matmul_precision("float32"):
        return task.reset(rng)


def step_task(task: JaxTask, state: Any, action: Any) -> Any:
    """The task's next state, its products in float32 whatever the learner's are."""
    with jax.default_matmul_precision("float32"):
        return task.step(state, action)


class JaxEnv(gymnasium.Env):
    """A task that JAX computes, seen as a Gymnasium environment; `make_env` gives it.

    Training on one makes many env steps in one compiled program on the device, without this class
    and without a wrapper around it, which would hide the task.
    """

    def __init__(self, task: JaxTask, max_episode_steps: int):
        """Truncates episodes after `max_episode_steps`; refuses a task that cannot be compiled."""
        self.task, self.max_episode_steps = task, max_episode_steps
        require_at_least(self, 1, "max_episode_steps")
        hashable = getattr(task, "__hash__", None) is not None
        require(hashable, f"{type(task).__name__} has no hash: use @dataclass(eq=False).")
        box = gymnasium.spaces.Box
        self.observation_space = box(-np.inf, np.inf, _obs_shape(task), np.float32)
        self.action_space = box(-1.0, 1.0, (task.action_size,), np.float32)
        self.state: Any = None
        self._length = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        """Starts an episode; the same seed gives the same one on the same kind of device."""
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        self.state = _compiled(self.task)[0](jax.random.PRNGKey(seed))
        self._length = 0
        return np.asarray(self.state.obs), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step; `terminated` if the task is done, `truncated` at the time limit."""
        if self.state is None:
            raise DimeError("step() before reset().")
        self.state = _compiled(self.task)[1](self.state, np.asarray(action, np.float32))
        self._length += 1
        terminated = bool(self.state.done)
        truncated = not terminated and self._length >= self.max_episode_steps
        return np.asarray(self.state.obs), float(self.state.reward), terminated, truncated, {}


@lru_cache(maxsize=16)  # tracing a large task takes seconds
def _obs_shape(task: JaxTask) -> tuple[int]:
    """The shape of the task's observation; refuses what could not be compiled into a loop."""

    def stepped(state, action):
        return jax.lax.fori_loop(0, 1, lambda _, state: step_task(task, state, action), state)

    name, action = type(task).__name__, jax.ShapeDtypeStruct((task.action_size,), np.float32)
    try:
        first = jax.eval_shape(partial(reset_task, task), jax.random.PRNGKey(0))
        jax.eval_shape(stepped, first, action)
    except Exception as error:  # whatever a task raises; JAX, if `step` changes the structure
        raise DimeError(f"The task {name} cannot be compiled ({describe(error)}).") from error
    parts = [getattr(first, name, None) for name in ("obs", "reward", "done")]
    shapes: list[Any] = [getattr(part, "shape", None) for part in parts]
    if None in shapes or list(map(len, shapes)) != [1, 0, 0]:
        raise DimeError(
            f"The states of {name} need the attributes `obs`, a vector, `reward` and `done`, one "
            f"number each; their shapes are {shapes}."
        )
    require(
        not any(str(leaf.dtype).startswith("key<") for leaf in jax.tree.leaves(first)),
        f"The states of {name} hold a typed random key; a checkpoint can hold its key_data alone.",
    )
    return shapes[0]


@lru_cache(maxsize=16)  # environments of one task share its programs
def _compiled(task: JaxTask) -> tuple[Any, Any]:
    return jax.jit(partial(reset_task, task)), jax.jit(partial(step_task, task))


class PlaygroundEnv(JaxEnv):
    """One of Playground's environments, which can be rendered; `task` is what its `load` returns.

    `view` has the `camera` (None is the model's first, or else the free one), `height` and `width`.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(
        self, task: Any, max_episode_steps: int, render_mode: str | None, view: dict[str, Any]
    ):
        super().__init__(task, max_episode_steps)
        self.render_mode = render_mode
        self.metadata = self.metadata | {"render_fps": round(1.0 / task.dt)}
        self._model = task.mj_model
        first = self._model.camera(0).name if self._model.ncam else None
        self._camera = ModelCamera(**view, default=first)

    def render(self) -> np.ndarray:
        """What the camera sees, uint8 (height, width, 3)."""
        mujoco: Any = import_module("mujoco")
        seen = mujoco.MjData(self._model)
        now = self.state.data
        seen.qpos, seen.qvel = np.asarray(now.qpos), np.asarray(now.qvel)
        seen.mocap_pos, seen.mocap_quat = np.asarray(now.mocap_pos), np.asarray(now.mocap_quat)
        mujoco.mj_forward(self._model, seen)
        return self._camera.image(self._model, seen)

    def close(self) -> None:
        """Frees the OpenGL context."""
        self._camera.close()


def make_playground(
    id: str, /, render_mode: str | None = None, **kwargs: Any
) -> gymnasium.Env | None:
    """Makes `playground/<Task>`, if there is one; kwargs go to the camera or the task's config."""
    name = id.removeprefix("playground/")
    if name not in _suite().ALL_ENVS:
        return None
    view = {key: kwargs.pop(key, default) for key, default in _VIEW.items()}
    if jax.default_backend() == "cpu":  # the tasks' own choice, Warp, needs a GPU of NVIDIA's
        kwargs.setdefault("impl", "jax")
    task, max_episode_steps = _load(name, json.dumps(kwargs, sort_keys=True))
    return PlaygroundEnv(task, max_episode_steps, render_mode, view)


@lru_cache(maxsize=16)  # a task is stateless, and its programs take long to compile
def _load(name: str, overrides: str) -> tuple[Any, int]:
    config = _suite().get_default_config(name).lock()
    config.update_from_flattened_dict(json.loads(overrides))
    _check(config)
    return _suite().load(name, config), int(config.episode_length)


def _check(config: Any) -> None:
    """Raises `ValueError` for values with which a task would run, but not as expected."""
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
        return import_module("mujoco_playground").dm_control_suite
    except ImportError as error:
        how = "pip install 'dime-rl[playground]'"
        raise DimeError(f"MuJoCo Playground is not installed ({error}): {how}") from error
