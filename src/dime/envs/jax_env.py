"""Environments that JAX computes, which can therefore run in one program with the learner."""

from functools import lru_cache, partial
from typing import Any, Protocol, runtime_checkable

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dime.errors import DimeError


@runtime_checkable  # for those who check types while they run
class JaxTask(Protocol):
    """A task as MuJoCo Playground and Brax write it: pure functions of a state that is a pytree.

    A state has `obs` (obs,), `reward` () and `done` (), which is 1 where the MDP has ended; `reset`
    and `step` give states of the same structure, shapes and dtypes. Time limits are not the task's
    business.
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
    """A task that JAX computes, seen as a Gymnasium environment.

    Training on one makes many env steps in one compiled program on the device, without this class
    (and without a wrapper around it, which would hide the task); it is what everything else uses
    (`make_env`, `dime evaluate`, films).

    Args:
        task: the task.
        max_episode_steps: after so many steps an episode is truncated.

    Raises:
        DimeError: the task raises, its observation is not one vector, or its states differ.
    """

    def __init__(self, task: JaxTask, max_episode_steps: int):
        if not (type(max_episode_steps) is int and 1 <= max_episode_steps < 2**31):
            raise DimeError(
                f"max_episode_steps is {max_episode_steps!r}; it must be a whole number from 1 to "
                "2147483647."
            )
        if getattr(task, "__hash__", None) is None:
            raise DimeError(
                f"{type(task).__name__} has no hash, by which its compiled programs are kept. A "
                "dataclass has one with @dataclass(frozen=True) or @dataclass(eq=False)."
            )
        self.task = task
        self.max_episode_steps = max_episode_steps
        shape = _obs_shape(task)
        box = gymnasium.spaces.Box
        self.observation_space = box(-np.inf, np.inf, shape, np.float32)
        self.action_space = box(-1.0, 1.0, (task.action_size,), np.float32)
        self.state: Any = None
        self._length = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode; the same seed gives the same one on the same kind of device."""
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        self.state = _compiled(self.task)[0](jax.random.PRNGKey(seed))
        self._length = 0
        return np.asarray(self.state.obs), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step; `terminated` where the task is done, `truncated` at the time limit."""
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
    name = type(task).__name__
    first = _shapes_of(name, "reset", partial(reset_task, task), jax.random.PRNGKey(0))
    if missing := [part for part in ("obs", "reward", "done") if not hasattr(first, part)]:
        raise DimeError(f"The states of {name} lack {', '.join(missing)} (as attributes).")
    for part in ("reward", "done"):
        if (found := np.shape(getattr(first, part))) != ():
            raise DimeError(f"The {part} of {name} must be one number, of shape (); it is {found}.")
    shape = getattr(first.obs, "shape", None)
    if shape is None or len(shape) != 1:
        raise DimeError(
            f"The observation of {name} must be one vector to be trained on the device; it is "
            f"{shape if shape is not None else sorted(first.obs)}. Wrap the task in one whose "
            "states have such an `obs`."
        )
    action = jax.ShapeDtypeStruct((task.action_size,), np.float32)
    then = _shapes_of(name, "stepped", partial(step_task, task), first, action)
    for place, leaf in jax.tree_util.tree_leaves_with_path(first):
        path = jax.tree_util.keystr(place)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise DimeError(
                f"The states of {name} hold a typed random key ({path}), which a checkpoint "
                "cannot. Keep jax.random.key_data of it, or use jax.random.PRNGKey."
            )
    kinds = [
        {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (first, then))
    ]
    for path in sorted(set(kinds[0]) | set(kinds[1])):
        one, other = (kind.get(path, "missing") for kind in kinds)
        if one != other:
            raise DimeError(
                f"The states of {name} must be alike after reset and step, but {path} is {one} "
                f"after a reset and {other} after a step."
            )
    return shape


def _shapes_of(name: str, done: str, function: Any, *arguments: Any) -> Any:
    try:
        return jax.eval_shape(function, *arguments)
    except Exception as error:  # whatever a task raises
        problem = f"{type(error).__name__}: {error}"
        raise DimeError(f"The task {name} cannot be {done} ({problem}).") from error


@lru_cache(maxsize=16)  # environments of one task share its programs
def _compiled(task: JaxTask) -> tuple[Any, Any]:
    return jax.jit(partial(reset_task, task)), jax.jit(partial(step_task, task))
