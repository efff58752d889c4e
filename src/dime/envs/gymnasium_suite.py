"""Gymnasium's environments, those that users register there, and Ant as it was in version 3."""

import importlib
import importlib.metadata
import importlib.util
import io
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from dime.envs.environment import no_exit
from dime.envs.myosuite import with_myosuite_seeding
from dime.envs.rendering import choose_renderer
from dime.errors import DimeError

ANT_V3 = "Ant-v3-compatible"
_ANT_CONTACT_FORCES = 84
_MUJOCO = [
    *("Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum"),
    *("InvertedPendulum", "Pusher", "Reacher", "Swimmer", "Walker2d"),
]
_BOX2D = ("BipedalWalker-v3", "BipedalWalkerHardcore-v3", "LunarLanderContinuous-v3")


class AntV3(gymnasium.ObservationWrapper):
    """Ant-v4 with version 3's 111 observations: 84 zeros in place of the contact forces.

    Under the MuJoCo bindings of its time, version 3 always read its contact forces as zero: they
    neither informed nor cost anything. Version 4's `use_contact_forces=True` has the same size,
    but its forces are real, and their cost is taken off the reward.
    """

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        size = gymnasium.spaces.flatdim(env.observation_space) + _ANT_CONTACT_FORCES
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Appends the zeros."""
        return np.concatenate([observation, np.zeros(_ANT_CONTACT_FORCES)])


class NewWorld(gymnasium.Wrapper):
    """A bipedal walker with a new Box2D world in each episode: the old one keeps a past."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        """Starts an episode; the same seed gives the same one, bit for bit."""
        walker: Any = self.unwrapped
        walker._destroy()
        walker.world = type(walker.world)(gravity=walker.world.gravity)
        return self.env.reset(seed=seed, options=options)


def with_new_worlds(env: gymnasium.Env) -> gymnasium.Env:
    """The same environment, without a past if it is one of Box2D's walkers."""
    modules = {kind.__module__ for kind in type(env.unwrapped).__mro__}
    return NewWorld(env) if "gymnasium.envs.box2d.bipedal_walker" in modules else env


def make_ant_v3(**kwargs: Any) -> gymnasium.Env:
    """Entry point of Ant-v3-compatible; kwargs are Ant-v4's, without `use_contact_forces`."""
    from gymnasium.envs.mujoco.ant_v4 import AntEnv

    return AntV3(AntEnv(use_contact_forces=False, **kwargs))


def make_gymnasium(id: str, kwargs: dict[str, Any]) -> gymnasium.Env | None:
    """Makes what is registered with Gymnasium as `id`, or as `module:id` once `module` is imported.

    Raises:
        DimeError: the module, or something the environment needs, is not installed.
    """
    choose_renderer()
    module, _, name = id.rpartition(":")
    if module:
        _import(module, id)
    if name not in gymnasium.registry:
        return None
    try:
        env = gymnasium.make(name, disable_env_checker=True, **kwargs)
    except (ImportError, gymnasium.error.Error) as error:
        raise DimeError(f"{id} cannot be made here: {error}{_ant_hint(name)}") from error
    return with_myosuite_seeding(with_new_worlds(env))


def gymnasium_ids() -> list[str]:
    """Gymnasium's tasks with continuous actions that this version can make."""
    mujoco = [f"{name}-{version}" for name in _MUJOCO for version in ("v4", "v5")]
    mujoco.remove("Pusher-v4")  # needs mujoco<3
    box2d = _BOX2D if importlib.util.find_spec("Box2D") else ()
    return [*mujoco, ANT_V3, "MountainCarContinuous-v0", "Pendulum-v1", *box2d]


def registered_elsewhere() -> list[str]:
    """Ids in Gymnasium's registry that neither Gymnasium nor another suite put there."""
    known = ("gymnasium.", "myosuite.", "shimmy.", "dime.")
    return [id for id, spec in gymnasium.registry.items() if not _origin(spec).startswith(known)]


def package_of(id: str) -> str | None:
    """The installed package whose import registers `id` with Gymnasium, if there is one."""
    for package in _packages_that_register():
        try:
            with no_exit(), redirect_stdout(io.StringIO()):
                importlib.import_module(package)
        except Exception:  # whatever somebody else's package raises
            continue
        if id in gymnasium.registry:
            return package
    return None


def _packages_that_register() -> Iterator[str]:
    """Packages that need Gymnasium, speak of registering, and have not been imported."""
    for distribution in importlib.metadata.distributions():
        if not any(line.startswith("gymnasium") for line in distribution.requires or ()):
            continue
        for file in distribution.files or ():
            package, own = file.parts[0], ("myosuite", *sys.modules)
            if file.name == "__init__.py" and len(file.parts) == 2 and package not in own:
                if "register" in Path(str(file.locate())).read_text(errors="replace"):
                    yield package


def _origin(spec: Any) -> str:
    entry_point = spec.entry_point or spec.vector_entry_point
    return entry_point if isinstance(entry_point, str) else f"{entry_point.__module__}."


def _import(module: str, id: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise DimeError(
            f"{id}: importing the module {module!r} failed ({error}). It must be installed, or "
            "in a folder of PYTHONPATH, and register its environments when it is imported."
        ) from error


def _ant_hint(name: str) -> str:
    return f" The nearest that works is {ANT_V3}." if name in ("Ant-v2", "Ant-v3") else ""


if ANT_V3 not in gymnasium.registry:
    gymnasium.register(ANT_V3, f"{__name__}:make_ant_v3", max_episode_steps=1000)
