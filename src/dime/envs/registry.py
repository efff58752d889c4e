"""From a name to an environment."""

import difflib
import errno
import inspect
import json
import logging
import re
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
from dime.envs.gymnasium_suite import (
    gymnasium_ids,
    make_gymnasium,
    package_of,
    registered_elsewhere,
    with_new_worlds,
)
from dime.envs.myosuite import PREFIXES, make_myosuite, with_myosuite_seeding
from dime.envs.process import ProcessEnv
from dime.envs.rendering import choose_renderer
from dime.envs.tiny import TINY_IDS
from dime.errors import DimeError

EnvFactory: TypeAlias = Callable[..., gymnasium.Env]
_logger = logging.getLogger("dime.envs")
_shown: set[str] = set()  # notices of Gymnasium
_COLOUR = re.compile(r"\x1b\[\d+m")


def _make_playground(id: str, kwargs: dict[str, Any]) -> gymnasium.Env | None:
    from dime.envs.jax_env import make_playground  # brings JAX

    return make_playground(id, kwargs)


_MAKERS = {  # each makes an environment of its suite from id and kwargs; None: no such id
    "dm_control": make_dm_control,
    "gymnasium": make_gymnasium,
    "myosuite": make_myosuite,
    "playground": _make_playground,
    "dime": make_gymnasium,
}
# Suites that take seconds to import; their ids are listed for the versions of pyproject.toml.
_SLOW_SUITES = {
    "dm_control": "dm_control",
    "myosuite": "myosuite",
    "playground": "mujoco_playground",
}


def make_env(id: str, /, **kwargs: Any) -> gymnasium.Env:
    """Makes an environment from its id, in its own units, shapes and dtypes.

    Ids: `dm_control/<domain>-<task>`, any Gymnasium id, `module:Id`, MyoSuite's ids,
    `playground/<Task>`, `Ant-v3-compatible`, `dime/TwoModeBandit-v0`, `dime/MultiGoal-v0`; see
    docs/environments.md.

    Args:
        id: the environment's name.
        **kwargs: given to the environment as they are; `render_mode="rgb_array"` for pictures.

    Raises:
        DimeError: no such id (the nearest are named), its suite is not installed (what installs
            it is named), or the environment does not take these kwargs.

    >>> env = make_env("dm_control/cartpole-swingup")
    >>> env.observation_space.shape, env.action_space.shape
    ((5,), (1,))
    >>> obs, info = env.reset(seed=0)
    >>> obs, reward, terminated, truncated, info = env.step(env.action_space.high)
    """
    try:
        with tidy_warnings():
            env = _MAKERS[suite_of(id)](id, kwargs)
    except (TypeError, ValueError, KeyError, OSError) as error:
        of_the_system = isinstance(error, OSError) and error.errno not in (None, errno.ENOENT)
        if not (kwargs or _missing(error)) or of_the_system:
            raise  # the environment's own fault, and its own traceback
        raise _wrong_kwargs(id, kwargs, error) from error
    if env is None:
        raise _unknown(id)
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
        process_timeout_s: makes it in a separate process (without rendering), which may take this
            long to answer.

    Raises:
        DimeError: as `make_env` and `Spaces.of`; or the factory does not make a gymnasium.Env, or
            one that keeps running statistics.

    >>> make("dime/MultiGoal-v0").max_episode_steps
    30
    """
    kwargs = dict(env_kwargs or {})
    if isinstance(id_or_factory, str):
        if render:
            kwargs["render_mode"] = "rgb_array"
        name, build = id_or_factory, partial(_from_id, id_or_factory, kwargs)
    elif callable(id_or_factory):
        if render and _takes_render_mode(id_or_factory):
            kwargs["render_mode"] = "rgb_array"
        choose_renderer()
        name, build = None, partial(_from_factory, id_or_factory, kwargs)
    else:
        raise DimeError(
            f"An environment is an id or a function that makes one, got {id_or_factory!r}. A run "
            "makes several, for training and for evaluation: give a function that returns a new "
            "one at each call."
        )
    if process_timeout_s is None:
        with no_exit():
            env = build()
        return Environment(env, name, build)
    build_there = partial(ProcessEnv, partial(_not_by_jax, build), process_timeout_s)
    env = build_there()
    try:
        return Environment(env, name or env.name, build_there)
    except DimeError:
        env.close()
        raise


def suite_of(id: str) -> str:
    """The suite that an id belongs to; "gymnasium" if it is none of the others.

    >>> [suite_of(id) for id in ("dm_control/dog-run", "myoHandReachRandom-v0", "my_envs:Reach-v1")]
    ['dm_control', 'myosuite', 'gymnasium']
    """
    prefix = id.partition("/")[0] if "/" in id else ""
    if prefix in ("dm_control", "playground", "dime"):
        return prefix
    return "myosuite" if id.lower().startswith(PREFIXES) and ":" not in id else "gymnasium"


def list_environments() -> dict[str, list[str]]:
    """The ids of every installed suite; all of them have continuous actions."""
    listed = json.loads(
        resources.files("dime").joinpath("data", "environments.json").read_text("utf-8")
    )
    ids = {
        suite: listed[suite] for suite, module in _SLOW_SUITES.items() if find_spec(module)
    }  # if one is missing, make_env says so to those who ask for it
    ids |= {"gymnasium": gymnasium_ids(), "dime": list(TINY_IDS)}
    return {suite: ids[suite] for suite in _MAKERS if suite in ids}


def _from_id(id: str, kwargs: dict[str, Any]) -> gymnasium.Env:
    return refuse_running_statistics(make_env(id, **kwargs), id)


def _from_factory(factory: EnvFactory, kwargs: dict[str, Any]) -> gymnasium.Env:
    name = getattr(factory, "__name__", repr(factory))
    try:
        inspect.signature(factory).bind(**kwargs)
    except TypeError as error:
        raise _wrong_kwargs(name, kwargs, error) from error
    env = factory(**kwargs)
    if not isinstance(env, gymnasium.Env):
        raise DimeError(
            f"{name} must return a gymnasium.Env, got {type(env).__name__} from "
            f"{type(env).__module__}. See docs/environments.md."
        )
    return with_myosuite_seeding(with_new_worlds(refuse_running_statistics(env, name)))


def _not_by_jax(build: Callable[[], gymnasium.Env]) -> gymnasium.Env:
    """What `build` makes, in a separate process."""
    env = build()
    if any(kind.__module__ == "dime.envs.jax_env" for kind in type(env).__mro__):
        env.close()
        raise DimeError(
            "env_process does not go with environments that JAX computes: they are stepped in one "
            "program with the learner, not in separate processes. Leave the option out "
            "(dime resume: --env-process False)."
        )
    return env


@contextmanager
def tidy_warnings() -> Iterator[None]:
    """Logs the notice that a version is out of date, once per process, and drops other noise.

    Noise: deprecations inside the suites, and Gymnasium's own remarks (float32 bounds, ...).
    Warnings of the environment itself are passed on.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        text = _COLOUR.sub("", str(warning.message))
        if not text.startswith("WARN: "):
            if not issubclass(warning.category, DeprecationWarning):
                warnings.warn_explicit(
                    warning.message, warning.category, warning.filename, warning.lineno
                )
        elif "is out of date" in text and text not in _shown:
            _shown.add(text)
            _logger.warning("Gymnasium: %s", text.removeprefix("WARN: "))


def _takes_render_mode(factory: EnvFactory) -> bool:
    parameters = inspect.signature(factory).parameters.values()
    return any(p.name == "render_mode" or p.kind is p.VAR_KEYWORD for p in parameters)


def _missing(error: Exception) -> list[str]:
    """The names of the arguments that a call lacked, if that is what the error says."""
    said = re.search(r"missing (?:a|\d+) required .*?argument.*?: (.*)", str(error))
    return re.findall(r"'(\w+)'", said[1].partition(" was raised from ")[0]) if said else []


def _wrong_kwargs(id: str, kwargs: dict[str, Any], error: Exception) -> DimeError:
    if missing := _missing(error):
        words = " ".join(f"{name}=VALUE" for name in missing)
        return DimeError(
            f"{id} cannot be made without {', '.join(missing)}: give --env-kwargs {words} (from "
            "Python: env_kwargs)."
        )
    if "render_mode" in kwargs and "unexpected keyword argument 'render_mode'" in str(error):
        return DimeError(
            f"{id} has no render mode, so it cannot be rendered: it does not take "
            f"render_mode={kwargs['render_mode']!r}."
        )
    return DimeError(f"{id} could not be made with {kwargs}: {error}")


def _unknown(id: str) -> DimeError:
    misspelt = _nearest(id, cutoff=0.9)  # known without imports of other people's packages
    if suite_of(id) == "gymnasium" and not misspelt and (package := package_of(id)):
        return DimeError(f"{id} exists once {package} is imported: name it {package}:{id}.")
    nearest = ", ".join(_nearest(id))
    hint = f"Nearest: {nearest}." if nearest else "See docs/environments.md for names."
    return DimeError(f"There is no environment {id!r}. {hint}")


def _nearest(id: str, count: int = 5, cutoff: float = 0.6) -> list[str]:
    """The known ids that are most like this one."""
    known = [name for ids in list_environments().values() for name in ids] + registered_elsewhere()
    names: dict[str, str] = {}
    for name in known:
        names.setdefault(name.lower(), name)
        names.setdefault(name.rpartition("/")[2].lower(), name)
    wanted = id.rpartition(":")[2].lower()
    hits = difflib.get_close_matches(wanted, names, n=2 * count, cutoff=cutoff)
    return list(dict.fromkeys(names[hit] for hit in hits))[:count]
