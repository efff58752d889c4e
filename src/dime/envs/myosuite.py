"""MyoSuite's environments (muscle-driven hands, arms, legs)."""

import contextlib
import io
import sys
import warnings
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import gymnasium
import numpy as np

from dime.envs.rendering import ModelCamera, choose_renderer
from dime.errors import DimeError

PREFIXES = ("myo", "motorfinger")
_CAMERA = "hand_side_inter"  # shows the hand and the object; the others mostly the room
# Tasks that draw random numbers when they are made, or change their model or muscles for good.
_KEEP_STATE = (
    "MyoHand*Random-v0",
    *(f"myo*Challenge{task}*" for task in ("Baoding", "ChaseTag", "DieReorient")),
)


class MyoSuiteEnv(gymnasium.Wrapper):
    """Makes a MyoSuite environment reproducible from `reset(seed=...)`, and renders it.

    MyoSuite 2.x ignores the seed of `reset` and has a separate `seed` method. `remake` re-creates
    an environment that keeps state between episodes, from a seed at every reset.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        render_mode: str | None,
        camera: ModelCamera,
        remake: Callable[..., gymnasium.Env] | None = None,
    ):
        super().__init__(env)
        self._render_mode, self._camera, self._remake = render_mode, camera, remake

    @property
    def render_mode(self) -> str | None:
        """As given when it was made."""
        return self._render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        """Starts the episode of this seed, the same one bit for bit each time."""
        if seed is not None:
            if self._remake is not None:
                self.close()
                with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    self.env = self._remake(seed=seed)
            inner: Any = self.env.unwrapped
            inner.seed(seed)
        return self.env.reset(seed=seed, options=options)

    def render(self) -> Any:
        """What the camera sees, uint8 (height, width, 3)."""
        inner: Any = self.env.unwrapped
        return self._camera.image(inner.mj_model, inner.mj_data)

    def close(self) -> None:
        """Frees the OpenGL context."""
        self._camera.close()
        self.env.close()


def make_myosuite(
    id: str, /, render_mode: str | None = None, camera: str | None = None, **kwargs: Any
) -> gymnasium.Env | None:
    """Makes one of MyoSuite's environments, if there is one; `TypeError` for unknown kwargs."""
    import_myosuite()
    if id not in gymnasium.registry:
        return None
    size = kwargs.pop("height", 480), kwargs.pop("width", 480)
    build = partial(gymnasium.make, id, disable_env_checker=True, **kwargs)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            env = build()
    finally:  # MyoSuite's credits are shown, but not among a command's own output
        sys.stderr.write(printed.getvalue())
    if "Unused kwargs found" in printed.getvalue():  # MyoSuite prints it and continues
        raise TypeError("unused kwargs")
    keeps_state = any(fnmatchcase(id, pattern) for pattern in _KEEP_STATE)
    camera_here = ModelCamera(camera, *size, default=_CAMERA)
    return MyoSuiteEnv(env, render_mode, camera_here, build if keeps_state else None)


def with_myosuite_seeding(env: gymnasium.Env) -> gymnasium.Env:
    """The same environment, made reproducible if it is one of MyoSuite's and is not yet."""
    of_myosuite = any(k.__module__.startswith("myosuite.") for k in type(env.unwrapped).__mro__)
    if of_myosuite and not env.has_wrapper_attr("_remake"):
        return MyoSuiteEnv(env, "rgb_array", ModelCamera(None, default=_CAMERA))
    return env


def import_myosuite() -> None:
    """Imports MyoSuite, which registers its environments; `DimeError` if it is not installed."""
    choose_renderer()
    silent = contextlib.redirect_stdout(io.StringIO())  # "Registering ..."
    try:
        with silent, warnings.catch_warnings(action="ignore"):
            import myosuite  # noqa: F401
    except ImportError as error:
        raise DimeError(
            f"MyoSuite is not installed ({error}): pip install 'dime-rl[myo]'"
        ) from error
