"""One environment as the training loop sees it: flat float32 observations, actions in [-1, 1]."""

import atexit
import contextlib
import logging
import numbers
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from dime.envs.rendering import RENDER_PACKAGES
from dime.envs.spaces import Spaces
from dime.errors import DimeError, describe, require

_logger = logging.getLogger("dime.envs")
SUCCESS_KEYS = ("solved", "success", "is_success")
"""Keys of `info`; the first of them that is present says whether a step was a success."""
_ACTION_TOLERANCE = 1e-6  # float32 rounding of a squashed action; the rescaling clips it away
_MAX_REWARD = float(np.finfo(np.float32).max)  # stored as float32
_STEP_ANSWER = ("obs", "reward", "terminated", "truncated", "info")


class StepResult(NamedTuple):
    """What a step returned; `obs` is a new array, and the true final one at an episode's end.

    `truncated` is a time limit; `success` is None if the environment does not report it.
    """

    obs: np.ndarray
    reward: float
    terminated: bool
    truncated: bool
    success: bool | None


class NonFiniteError(DimeError):
    """An observation, reward or action that is NaN or infinite.

    Attributes:
        quantity: "observation", "reward" or "action".
        environment: the environment's name.
        step: the step within the episode; 0 is the reset, 1 the first step.
    """

    def __init__(self, quantity: str, environment: str, step: int, detail: str):
        self.quantity, self.environment, self.step = quantity, environment, step
        where = f"at step {step} of its episode"
        super().__init__(f"{environment}: non-finite {quantity} ({detail}) {where}.")


class Environment:
    """Wraps a Gymnasium environment for a training loop.

    After an error, or the end of an episode, only `reset` is allowed.

    Attributes:
        name: what errors and records call it.
        env: the wrapped environment, in its own units.
        spaces: the observation layout and the action box.
        obs_dim, action_dim: lengths of an observation and of an action.
        max_episode_steps: after how many steps an episode is truncated; None if not known.
        frames_per_second: how many steps make a second of its time; 30 if it does not say.

    >>> import gymnasium
    >>> environment = Environment(gymnasium.make("Pendulum-v1"))
    >>> obs = environment.reset(seed=1)
    >>> result = environment.step([0.5])
    >>> result.obs.shape, result.terminated, result.truncated
    ((3,), False, False)
    """

    def __init__(
        self,
        env: gymnasium.Env,
        name: str | None = None,
        build: Callable[[], gymnasium.Env] | None = None,
    ):
        """Wraps `env`; `build` makes another one like it."""
        self.name = name or name_of(env)
        self.env = env
        self._build = build
        self.spaces = Spaces.of(env, self.name)
        self.obs_dim, self.action_dim = self.spaces.obs_dim, self.spaces.action_dim
        self.max_episode_steps = max_episode_steps(env)
        self.frames_per_second = float(env.metadata.get("render_fps") or 30.0)
        self._steps: int | None = None  # in this episode; None: a reset is due
        self._rendered = False

    def reset(self, seed: int) -> np.ndarray:
        """The first observation, (obs_dim,), of the episode that `seed` (0 to 2**32 - 1) sets."""
        # What dm_control's NumPy RandomState takes.
        require(0 <= seed < 2**32, f"The seed of an episode must be in 0..2**32 - 1, got {seed}.")
        self._steps = None
        obs, _ = self._call("reset", ("obs", "info"), seed=int(seed))
        flat = self._flat(obs, step=0)
        self._steps = 0
        return flat

    def start_step(self, action: Any) -> None:
        """Begins a step in another process; `step` with the same action ends it, or raises."""
        start = getattr(self.env, "start_step", None)
        if start is not None and self._steps is not None:
            with contextlib.suppress(DimeError):
                start(self._env_action(action, self._steps + 1))

    def step(self, action: Any) -> StepResult:
        """Takes one step with `action`, (action_dim,) in [-1, 1].

        Raises:
            NonFiniteError: the action, the reward or the observation is NaN or infinite.
            DimeError: the action is out of range, or a reset is due.
        """
        if self._steps is None:
            raise DimeError(f"{self.name}: step() before reset(), or after the episode's end.")
        step, self._steps = self._steps + 1, None  # so that any error below leaves a reset due
        answer = self._call("step", _STEP_ANSWER, self._env_action(action, step))
        obs, reward, terminated, truncated, info = answer
        reward = self._one(float, "reward", reward)
        terminated = self._one(bool, "terminated", terminated)
        truncated = self._one(bool, "truncated", truncated)
        if not abs(reward) <= _MAX_REWARD:  # false for NaN as well
            raise NonFiniteError("reward", self.name, step, str(reward))
        obs = self._flat(obs, step)
        if not (terminated or truncated):
            self._steps = step
        return StepResult(obs, reward, terminated, truncated, self._success(info))

    def rebuild(self) -> None:
        """Re-creates it, `DimeError` if nothing says how or its spaces change; a reset is due."""
        if self._build is None:
            raise DimeError(f"{self.name} cannot be re-created: it was passed as an object.")
        self._steps = None
        self.close()
        with no_exit():
            self.env = self._build()
        Spaces.of(self.env, self.name).refuse_if_other(self.spaces, "before it was re-created")

    def render(self) -> np.ndarray:
        """An image of the present state, uint8 (height, width, 3)."""
        has_mode = self.env.render_mode is not None
        require(has_mode, f"{self.name} has no render mode: make it with render=True.")
        try:
            frame: Any = self.env.render()
        except Exception as error:
            problem = f"{self.name} cannot be rendered ({describe(error)})."
            raise DimeError(f"{problem} {RENDER_PACKAGES}") from error
        if not (isinstance(frame, np.ndarray) and frame.ndim == 3 and frame.shape[2] == 3):
            got = getattr(frame, "shape", type(frame).__name__)
            raise DimeError(f"{self.name} must render an array (height, width, 3), got {got}.")
        if not self._rendered:
            # OpenGL contexts that outlive the interpreter's exit handlers fail noisily.
            atexit.register(self.close)
            self._rendered = True
        return frame.astype(np.uint8)

    def close(self) -> None:
        """Frees what the environment holds; an error there is logged, not raised."""
        atexit.unregister(self.close)
        self._rendered = False
        try:
            self.env.close()
        except Exception as error:
            _logger.warning("%s: close() raised %s: %s", self.name, type(error).__name__, error)

    def _env_action(self, action: Any, step: int) -> np.ndarray:
        action = np.asarray(action)
        if action.shape != (expected := (self.action_dim,)):
            raise DimeError(f"{self.name}: expected an action {expected}, got {action.shape}.")
        if not np.abs(action).max() <= 1.0 + _ACTION_TOLERANCE:  # false for NaN as well
            if not np.isfinite(action).all():
                raise NonFiniteError("action", self.name, step, _first_non_finite(action))
            raise DimeError(f"{self.name}: an action must be in [-1, 1], got {action}.")
        return self.spaces.to_env_action(action)

    def _flat(self, obs: Any, step: int) -> np.ndarray:
        flat = self.spaces.flatten(obs)
        if flat.ndim != 1:
            axes = f"leading axes {flat.shape[:-1]} that its space does not declare"
            raise DimeError(f"{self.name} gave observations with {axes}.")
        if not np.isfinite(flat).all():
            raise NonFiniteError("observation", self.name, step, _first_non_finite(flat))
        return flat

    def _one(self, kind: Callable[[Any], Any], what: str, value: Any) -> Any:
        """A `float`, or a `bool` from true, false, 0 or 1; also from an array that holds one."""
        if type(value) is kind:
            return value
        number = None
        if not isinstance(value, list | tuple):
            with contextlib.suppress(TypeError, ValueError, RuntimeError):  # the last is PyTorch's
                number = np.asarray(value).item()
        if isinstance(number, numbers.Real) and (kind is float or number in (0, 1)):
            return kind(number)
        must = "one number" if kind is float else "true or false"
        raise DimeError(f"{self.name}: {what} must be {must}, got {value!r:.80}.")

    def _success(self, info: Any) -> bool | None:
        for key in SUCCESS_KEYS if isinstance(info, dict) else ():
            if info.get(key) is not None:
                return self._one(bool, f"info[{key!r}]", info[key])
        return None

    def _call(self, method: str, expected: tuple[str, ...], *arguments: Any, **options: Any) -> Any:
        """What the environment answers; refuses what a new environment would get wrong as well."""
        with no_exit():
            answer = getattr(self.env, method)(*arguments, **options)
        if not (isinstance(answer, tuple | list) and len(answer) == len(expected)):
            names = ", ".join(expected)
            raise DimeError(f"{self.name}: {method}() must return ({names}), got {answer!r:.80}.")
        return answer


def _first_non_finite(flat: np.ndarray) -> str:
    index = int(np.argmin(np.isfinite(flat)))
    return f"{flat[index]} at index {index} of {flat.size}"


@contextlib.contextmanager
def no_exit() -> Iterator[None]:
    """Inside, `sys.exit` is an error like others: an environment does not end the training."""
    try:
        yield
    except SystemExit as error:
        raise RuntimeError(f"the environment called sys.exit({error.code!r})") from error


def name_of(env: gymnasium.Env) -> str:
    """The id that it was made with, else its class's name."""
    return env.spec.id if env.spec else type(env.unwrapped).__name__


def max_episode_steps(env: gymnasium.Env) -> int | None:
    """After how many steps an episode is truncated; None if not known."""
    if env.spec is not None and env.spec.max_episode_steps is not None:
        return env.spec.max_episode_steps
    for attribute in ("max_episode_steps", "_max_episode_steps"):  # an adapter's; TimeLimit's
        if env.has_wrapper_attr(attribute):
            return env.get_wrapper_attr(attribute)
    return None


def refuse_running_statistics(env: gymnasium.Env, name: str) -> gymnasium.Env:
    """The environment, or `DimeError` if it or a wrapper around it keeps running statistics.

    Statistics that are no longer updated are fixed numbers, and pass.
    """
    layer: Any = env
    while layer is not None:
        for key, value in getattr(layer, "__dict__", {}).items():
            if _is_running(value) and getattr(layer, "update_running_mean", True):
                raise DimeError(
                    f"{name}: {type(layer).__name__} keeps running statistics ({key}), so that "
                    "evaluations and an exported policy would see other numbers than training. "
                    "Scale by fixed numbers (gymnasium.wrappers.TransformObservation, "
                    "TransformReward) or set update_running_mean = False."
                )
        layer = layer.env if isinstance(layer, gymnasium.Wrapper) else None
    return env


def _is_running(value: Any) -> bool:
    """Whether it is a RunningMeanStd or the like, of any library, or a dict with one."""
    parts = value.values() if isinstance(value, dict) else [value]
    names = ("RunningMean", "RunningStat", "RunningNorm")
    return any(type(part).__name__.startswith(names) for part in parts)
