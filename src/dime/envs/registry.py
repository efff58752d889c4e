"""From a name to an environment."""

import difflib
import inspect
import itertools
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import resources
from importlib.util import find_spec
from typing import Any, TypeAlias

import gymnasium

from dime.envs.dm_control import make_dm_control
from dime.envs.environment import Environment, no_exit, refuse_running_statistics
from dime.envs.gymnasium_suite import gymnasium_ids, make_gymnasium, repeatable
from dime.envs.myosuite import PREFIXES, make_myosuite
from dime.envs.process import ProcessEnv
from dime.envs.rendering import choose_renderer
from dime.envs.tiny import TINY_IDS
from dime.errors import DimeError, choose

EnvFactory: TypeAlias = Callable[..., gymnasium.Env]


def _make_playground(id: str, /, **kwargs: Any) -> gymnasium.Env | None:
    from dime.envs.jax_env import make_playground  # brings JAX

    return make_playground(id, **kwargs)


_MAKERS = {  # each makes an environment of its suite from id and kwargs; None: no such id
    "dm_control": make_dm_control,
    "gymnasium": make_gymnasium,
    "myosuite": make_myosuite,
    "playground": _make_playground,
    "dime": make_gymnasium,
}


def make_env(id: str, /, **kwargs: Any) -> gymnasium.Env:
    """Makes an environment from its id, in its own units, shapes and dtypes.

    Ids: `dm_control/<domain>-<task>`, any Gymnasium id, `module:Id`, MyoSuite's ids,
    `playground/<Task>`, `Ant-v3-compatible`, `dime/TwoModeBandit-v0`, `dime/MultiGoal-v0`; see
    docs/environments.md. kwargs go to the environment; `render_mode="rgb_array"` for images.

    Raises:
        DimeError: no such id (the nearest are named), its suite is not installed, or the
            environment does not take these kwargs.

    >>> env = make_env("dm_control/cartpole-swingup")
    >>> env.observation_space.shape, env.action_space.shape
    ((5,), (1,))
    >>> obs, info = env.reset(seed=0)
    >>> obs, reward, terminated, truncated, info = env.step(env.action_space.high)
    """
    try:
        with tidy_warnings():
            env = _MAKERS[choose("suite in _MAKERS", suite_of(id), _MAKERS)](id, **kwargs)
    except (TypeError, ValueError, KeyError, OSError) as error:
        if not (kwargs or "required positional argument" in str(error)):
            raise  # the environment's own fault, and its own traceback
        raise _wrong_kwargs(id, kwargs, error) from error
    if env is None:
        known = itertools.chain(*list_environments().values(), gymnasium.registry)
        names = {part.lower(): name for name in known for part in (name, name.rpartition("/")[2])}
        hits = difflib.get_close_matches(id.rpartition(":")[2].lower(), names, n=5)
        nearest = ", ".join({names[hit]: None for hit in hits}) or "none"
        raise DimeError(
            f"There is no environment {id!r}. Nearest: {nearest}. What a module of yours registers "
            f"is module:{id}."
        )
    return env


def make(
    id_or_factory: str | EnvFactory,
    env_kwargs: dict[str, Any] | None = None,
    *,
    render: bool = False,
    process_timeout_s: float | None = None,
) -> Environment:
    """Makes an environment as the training loop uses it.

    Args:
        id_or_factory: an id of `make_env`, or a function (or class) that returns a new
            gymnasium.Env at each call.
        env_kwargs: given to the environment or to the factory.
        render: whether it will be rendered; a factory that takes `render_mode` gets "rgb_array".
        process_timeout_s: runs it in a separate process, which may take this long to answer.

    Raises:
        DimeError: as `make_env` and `Spaces.of`; or it is not a gymnasium.Env, or keeps running
            statistics.

    >>> make("dime/MultiGoal-v0").max_episode_steps
    30
    """
    name = id_or_factory if isinstance(id_or_factory, str) else None
    kwargs = dict(env_kwargs or {})
    if not (name or callable(id_or_factory)):
        raise DimeError(
            "An environment is an id or a function that returns a new one at each call, got "
            f"{id_or_factory!r}."
        )
    if render and (isinstance(id_or_factory, str) or _takes_render_mode(id_or_factory)):
        kwargs["render_mode"] = "rgb_array"
    build = partial(_build, id_or_factory, kwargs)
    if process_timeout_s is not None:
        build = partial(ProcessEnv, partial(_not_by_jax, build), process_timeout_s)
    with no_exit():
        env = build()
    return Environment(env, name, build)


def suite_of(id: str) -> str:
    """The suite that an id belongs to; "gymnasium" if it is none of the others.

    >>> [suite_of(id) for id in ("dm_control/dog-run", "myoHandReachRandom-v0", "my_envs:Reach-v1")]
    ['dm_control', 'myosuite', 'gymnasium']
    """
    if (prefix := id.partition("/")[0]) in ("dm_control", "playground", "dime"):
        return prefix
    return "myosuite" if id.lower().startswith(PREFIXES) and ":" not in id else "gymnasium"


def list_environments() -> dict[str, list[str]]:
    """The ids of every installed suite; all of them have continuous actions."""
    # Suites that take seconds to import are listed, for the versions of pyproject.toml.
    file = resources.files("dime").joinpath("data", "environments.json")
    ids: dict[str, list[str]] = json.loads(file.read_text("utf-8"))
    ids |= {"gymnasium": gymnasium_ids(), "dime": [*TINY_IDS]}
    module_of = {"playground": "mujoco_playground", "dime": "dime.envs"}
    suites = [suite for suite in _MAKERS if find_spec(module_of.get(suite, suite))]
    return {suite: ids[choose("suite in tests/listed.py", suite, ids)] for suite in suites}


def _build(id_or_factory: str | EnvFactory, kwargs: dict[str, Any]) -> gymnasium.Env:
    if isinstance(id_or_factory, str):
        return refuse_running_statistics(make_env(id_or_factory, **kwargs), id_or_factory)
    choose_renderer()
    name = getattr(id_or_factory, "__name__", repr(id_or_factory))
    try:
        inspect.signature(id_or_factory).bind(**kwargs)
    except TypeError as error:
        raise _wrong_kwargs(name, kwargs, error) from error
    env = id_or_factory(**kwargs)
    if not isinstance(env, gymnasium.Env):
        raise DimeError(f"{name} must return a gymnasium.Env, got {type(env).__name__}.")
    return repeatable(refuse_running_statistics(env, name))


def _not_by_jax(build: Callable[[], gymnasium.Env]) -> gymnasium.Env:
    """What `build` makes, in a separate process."""
    env = build()
    if any(kind.__module__ == "dime.envs.jax_env" for kind in type(env).__mro__):
        env.close()
        raise DimeError(
            "env_process does not go with environments that JAX computes: they step in one program "
            "with the learner."
        )
    return env


@contextmanager
def tidy_warnings() -> Iterator[None]:
    """Passes on an environment's own warnings, without Gymnasium's remarks and deprecations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", r"(\x1b\[\d+m)?WARN: ")
        yield


def _takes_render_mode(factory: EnvFactory) -> bool:
    parameters = inspect.signature(factory).parameters.values()
    return any(p.name == "render_mode" or p.kind is p.VAR_KEYWORD for p in parameters)


def _wrong_kwargs(id: str, kwargs: dict[str, Any], error: Exception) -> DimeError:
    return DimeError(f"{id} could not be made with env_kwargs {kwargs}: {error}")
