"""Gymnasium's environments, those that users register there, and Ant as it was in version 3."""

import importlib
import importlib.util
from functools import partial
from typing import Any

import gymnasium
import numpy as np

from dime.envs.myosuite import with_myosuite_seeding
from dime.envs.rendering import choose_renderer
from dime.errors import DimeError

ANT_V3 = "Ant-v3-compatible"
_BOX2D = ("BipedalWalker-v3", "BipedalWalkerHardcore-v3", "LunarLanderContinuous-v3")


class NewWorld(gymnasium.Wrapper):
    """A bipedal walker with a new Box2D world in each episode: the old one keeps a past."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        """Starts the episode of this seed, the same one bit for bit each time."""
        walker: Any = self.unwrapped
        walker._destroy()
        walker.world = type(walker.world)(gravity=walker.world.gravity)
        return self.env.reset(seed=seed, options=options)


def repeatable(env: gymnasium.Env) -> gymnasium.Env:
    """The same environment, made to repeat an episode if it is a walker of Box2D or a MyoSuite."""
    modules = {kind.__module__ for kind in type(env.unwrapped).__mro__}
    if "gymnasium.envs.box2d.bipedal_walker" in modules:
        env = NewWorld(env)
    return with_myosuite_seeding(env)


def make_ant_v3(**kwargs: Any) -> gymnasium.Env:
    """Ant-v4 with version 3's 111 observations: 84 zeros in place of the contact forces.

    Under the MuJoCo bindings of its time, version 3 always read its contact forces as zero: they
    neither informed nor cost anything. Version 4's `use_contact_forces=True` has the same size,
    but its forces are real, and their cost is taken off the reward.
    """
    from gymnasium.envs.mujoco.ant_v4 import AntEnv

    env, zeros = AntEnv(use_contact_forces=False, **kwargs), np.zeros(84)
    size = gymnasium.spaces.flatdim(env.observation_space) + zeros.size
    box = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64)
    with_zeros = partial(np.append, values=zeros)
    return gymnasium.wrappers.TransformObservation(env, with_zeros, box)


def make_gymnasium(id: str, /, **kwargs: Any) -> gymnasium.Env | None:
    """Makes what is registered with Gymnasium as `id`, or as `module:id` once `module` is imported.

    `DimeError` if the module, or something the environment needs, is not installed.
    """
    choose_renderer()
    module, _, name = id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
    except ImportError as error:
        raise DimeError(
            f"{id}: importing the module {module!r} failed ({error}). Is its folder on PYTHONPATH?"
        ) from error
    if name not in gymnasium.registry:
        return None
    try:
        env = gymnasium.make(name, disable_env_checker=True, **kwargs)
    except (ImportError, gymnasium.error.Error) as error:
        raise DimeError(f"{id} cannot be made here: {error}") from error
    return repeatable(env)


def gymnasium_ids() -> list[str]:
    """Gymnasium's tasks with continuous actions that this version can make."""
    mujoco = sorted(
        id
        for id, spec in gymnasium.registry.items()
        if str(spec.entry_point).startswith("gymnasium.envs.mujoco") and id[-3:] in ("-v4", "-v5")
    )
    mujoco.remove("Pusher-v4")  # needs mujoco<3
    box2d = _BOX2D if importlib.util.find_spec("Box2D") else ()
    return [*mujoco, ANT_V3, "MountainCarContinuous-v0", "Pendulum-v1", *box2d]


if ANT_V3 not in gymnasium.registry:
    gymnasium.register(ANT_V3, f"{__name__}:make_ant_v3", max_episode_steps=1000)
