"""One environment as the training loop sees it: flat float32 observations, actions in [-1, 1]."""

import atexit
import contextlib
import logging
import numbers
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from dime.envs.rendering import RENDER_PACKAGES, uses_mujoco
from dime.envs.spaces import Spaces
from dime.errors import DimeError

_logger = logging.getLogger("dime.envs")
SUCCESS_KEYS = ("solved", "success", "is_success")
"""Of `info`, the first of them that is there says whether a step was a success."""
_ACTION_TOLERANCE = 1e-6  # float32 rounding of a squashed action; the rescaling clips it away
_MAX_REWARD = float(np.finfo(np.float32).max)  # stored as float32
_MAX_SEED = 2**32 - 1  # what dm_control's NumPy RandomState takes


class StepResult(NamedTuple):
    """What one step gave; `obs` is a new array, also the true last one at the end of an episode.

    `terminated` is the end of the MDP, `truncated` a time limit. `success` is None where the
    environment does not report it.
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
        super().__init__(
            f"{environment}: non-finite {quantity} ({detail}) at step {step} of its episode."
        )


class RemoteEnv(gymnasium.Env):
    """An environment whose steps are taken elsewhere, and can be begun before they are awaited."""

    def start_step(self, action: Any) -> None:
        """Begins the step whose answer the next `step` returns."""
        raise NotImplementedError


class Environment:
    """Wraps a Gymnasium environment for a training loop.

    After an error, or the end of an episode, only `reset` is allowed.

    Attributes:
        name: what errors and records call it.
        env: the wrapped environment, in its own units.
        spaces: the observation layout and the action box.
        max_episode_steps: after how many steps an episode is truncated; None if not known.

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
        self.max_episode_steps = max_episode_steps(env)
        self._steps: int | None = None  # in this episode; None: a reset is due
        self._rendered = False

    @property
    def obs_dim(self) -> int:
        """Length of an observation."""
        return self.spaces.obs_dim

    @property
    def action_dim(self) -> int:
        """Length of an action."""
        return self.spaces.action_dim

    @property
    def frames_per_second(self) -> float:
        """How many steps make a second of the environment's time; 30 where it does not say."""
        return float(self.env.metadata.get("render_fps") or 30.0)

    def reset(self, seed: int) -> np.ndarray:
        """Starts the episode that `seed` (0 to 2**32 - 1) determines.

        Returns:
            The first observation, float32 (obs_dim,).
        """
        if not 0 <= seed <= _MAX_SEED:
            raise DimeError(f"The seed of an episode must be in 0..2**32 - 1, got {seed}.")
        self._steps = None
        try:
            with no_exit():
                answer = self.env.reset(seed=int(seed))
        except Exception as error:
            if "reset() got an unexpected keyword argument 'seed'" in str(error):
                raise DimeError(
                    f"{self.name}: reset() must take `seed`, as gymnasium.Env says ({error})."
                ) from error
            self._refuse_other_counts(error)
            raise
        if not (isinstance(answer, tuple) and len(answer) == 2):
            raise self._wrong_answer("reset", "(obs, info)", answer)
        obs = self._flat(answer[0], step=0)
        self._steps = 0
        return obs

    def start_step(self, action: Any) -> None:
        """Begins a step that `step` with the same action ends, where it is taken elsewhere.

        Several environments then step side by side. What is wrong is raised by `step`.
        """
        if isinstance(self.env, RemoteEnv) and self._steps is not None:
            with contextlib.suppress(DimeError):
                self.env.start_step(self._env_action(action, self._steps + 1))

    def step(self, action: Any) -> StepResult:
        """Takes one step with `action`, (action_dim,) in [-1, 1].

        Raises:
            NonFiniteError: the action, the reward or the observation is NaN or infinite.
            DimeError: the action is out of range, or a reset is due.
        """
        if self._steps is None:
            raise DimeError(f"{self.name}: step() before reset(), or after the episode's end.")
        step, self._steps = self._steps + 1, None  # so that any error below leaves a reset due
        env_action = self._env_action(action, step)
        try:
            with no_exit():
                answer: Any = self.env.step(env_action)
        except Exception as error:
            self._refuse_other_counts(error)
            raise
        try:
            obs, reward, terminated, truncated, info = answer
        except (TypeError, ValueError):
            expected = "(obs, reward, terminated, truncated, info)"
            raise self._wrong_answer("step", expected, answer) from None
        reward = self._one(float, "reward must be one number", reward)
        terminated, truncated = (
            self._one(bool, f"{end} must be true or false", value)
            for end, value in (("terminated", terminated), ("truncated", truncated))
        )
        if not abs(reward) <= _MAX_REWARD:  # false for NaN as well
            raise NonFiniteError("reward", self.name, step, str(reward))
        obs = self._flat(obs, step)
        if not (terminated or truncated):
            self._steps = step
        return StepResult(obs, reward, terminated, truncated, self._success(info))

    def rebuild(self) -> None:
        """Closes what is broken and makes the environment anew; a reset is due then.

        Raises:
            DimeError: nothing says how, or its spaces are others now.
        """
        if self._build is None:
            raise DimeError(f"{self.name} cannot be made anew: it was passed as it is.")
        self._steps = None
        self.close()
        with no_exit():
            self.env = self._build()
        Spaces.of(self.env, self.name).refuse_if_other(self.spaces, "before it was made anew")

    def render(self) -> np.ndarray:
        """A picture of the present state, uint8 (height, width, 3)."""
        if self.env.render_mode is None:
            raise DimeError(
                f"{self.name} has no render mode. Make it with render=True; what makes it must "
                'take render_mode="rgb_array".'
            )
        try:
            frame: Any = self.env.render()
        except Exception as error:
            problem = f"{self.name} cannot be rendered ({type(error).__name__}: {error})."
            modes = self.env.metadata.get("render_modes") or []
            says_it_itself = gymnasium.error.DependencyNotInstalled
            if uses_mujoco(self.env) and not isinstance(error, NotImplementedError):
                problem += "" if isinstance(error, says_it_itself) else f" {RENDER_PACKAGES}"
            elif "rgb_array" not in modes:
                problem += f" It declares no render mode 'rgb_array' (metadata: {modes})."
            raise DimeError(problem) from error
        if not (isinstance(frame, np.ndarray) and frame.ndim == 3 and frame.shape[2] == 3):
            got = getattr(frame, "shape", type(frame).__name__)
            raise DimeError(f"{self.name} must render an array (height, width, 3), got {got}.")
        if not self._rendered:
            # OpenGL contexts that outlive the interpreter's exit handlers fail noisily.
            atexit.register(_close_if_alive, weakref.ref(self))
            self._rendered = True
        return frame.astype(np.uint8)

    def close(self) -> None:
        """Gives back what the environment holds (windows, OpenGL contexts).

        An error there is logged, not raised: nothing more is asked of the environment.
        """
        try:
            self.env.close()
        except Exception as error:
            _logger.warning("%s: close() raised %s: %s", self.name, type(error).__name__, error)

    def _env_action(self, action: Any, step: int) -> np.ndarray:
        action = np.asarray(action)
        if action.shape != (self.spaces.action_dim,):
            expected = (self.spaces.action_dim,)
            raise DimeError(f"{self.name}: expected an action {expected}, got {action.shape}.")
        if not np.abs(action).max() <= 1.0 + _ACTION_TOLERANCE:  # false for NaN as well
            if not np.isfinite(action).all():
                raise NonFiniteError("action", self.name, step, _first_non_finite(action))
            raise DimeError(f"{self.name}: an action must be in [-1, 1], got {action}.")
        return self.spaces.to_env_action(action)

    def _flat(self, obs: Any, step: int) -> np.ndarray:
        flat = self.spaces.flatten(obs)
        if flat.ndim != 1:
            raise DimeError(
                f"{self.name} gave observations with leading axes {flat.shape[:-1]} that its "
                "space does not declare."
            )
        if not np.isfinite(flat).all():
            raise NonFiniteError("observation", self.name, step, _first_non_finite(flat))
        return flat

    def _one(self, kind: Callable[[Any], Any], contract: str, value: Any) -> Any:
        """A `float`, or a `bool` from true, false, 0 or 1; also from an array that holds one."""
        if type(value) is kind:
            return value
        sequence = isinstance(value, list | tuple)
        try:
            number = None if sequence else np.asarray(value).item()
        except (TypeError, ValueError, RuntimeError):  # the last is PyTorch's
            number = None
        if isinstance(number, numbers.Real) and (kind is float or number in (0, 1)):
            return kind(number)
        shape = (len(value),) if sequence else np.shape(value)
        got = f"shape {shape}" if shape else f"{type(value).__name__} {value!r:.50}"
        raise DimeError(f"{self.name}: {contract}, got {got}.")

    def _success(self, info: Any) -> bool | None:
        for key in SUCCESS_KEYS if isinstance(info, dict) else ():
            if info.get(key) is not None:
                return self._one(bool, f"info[{key!r}] must be true or false", info[key])
        return None

    def _refuse_other_counts(self, error: Exception) -> None:
        """A wrapper met an answer of too many or too few values: a new environment would too."""
        text = str(error)
        if isinstance(error, ValueError) and "values to unpack (expected" in text:
            raise DimeError(
                f"{self.name}: reset() must return (obs, info), and step() (obs, reward, "
                f"terminated, truncated, info); a wrapper found {text}."
            ) from error

    def _wrong_answer(self, method: str, expected: str, answer: Any) -> DimeError:
        got = f"{len(answer)} values" if isinstance(answer, tuple) else type(answer).__name__
        return DimeError(
            f"{self.name}: {method}() must return {expected}, as gymnasium.Env says; got {got}."
        )


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


def _close_if_alive(reference: "weakref.ref[Environment]") -> None:
    environment = reference()
    if environment is not None:
        environment.close()
