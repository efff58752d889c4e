"""MyoSuite's environments (muscle-driven hands, arms, legs)."""

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import gymnasium
import numpy as np

from dime.envs.messages import UnknownIdError, tidy_warnings
from dime.envs.rendering import choose_renderer
from dime.errors import DimeError

PREFIXES = ("myo", "motorfinger")
_CAMERA = "hand_side_inter"  # sees the hand and the object; the others see mostly the room


_KEEP_A_PAST = (
    "MyoHand*Random-v0",
    "myo*ChallengeBaoding*",
    "myo*ChallengeChaseTag*",
    "myo*ChallengeDieReorient*",
)
"""Tasks that draw when they are made, or change their model or their muscles for good."""


class MyoSuiteEnv(gymnasium.Wrapper):
    """Makes a MyoSuite environment reproducible from `reset(seed=...)`, and renders it.

    MyoSuite 2.x ignores the seed of `reset` and has a `seed` method of its own.

    Args:
        env: the environment as Gymnasium makes it.
        remake: makes it anew from a seed at every reset, where it keeps a past.
        render_mode: "rgb_array" or None; rendering works either way.
        camera: a camera's name; by default one that sees the hand, else the free camera.
        height: of a picture, in pixels.
        width: of a picture, in pixels.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        *,
        remake: Callable[..., gymnasium.Env] | None = None,
        render_mode: str | None = None,
        camera: str | None = None,
        height: int = 480,
        width: int = 480,
    ):
        super().__init__(env)
        self._remake = remake
        self._render_mode = render_mode
        self._camera, self._height, self._width = camera, height, width
        self._renderer: Any = None

    @property
    def render_mode(self) -> str | None:
        """As given when it was made."""
        return self._render_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts an episode; the same seed gives the same one, bit for bit."""
        if seed is not None and self._remake is not None:
            self.close()
            self.env = self._remake(seed=seed)
        if seed is not None:
            inner: Any = self.env.unwrapped
            inner.seed(seed)
        return self.env.reset(seed=seed, options=options)

    def render(self) -> Any:
        """What the camera sees, uint8 (height, width, 3)."""
        import mujoco

        inner: Any = self.env.unwrapped
        if self._renderer is None:
            self._renderer = mujoco.Renderer(inner.mj_model, self._height, self._width)
        self._renderer.update_scene(inner.mj_data, camera=self._camera_of(inner.mj_model))
        return self._renderer.render()

    def close(self) -> None:
        """Frees the OpenGL context."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        self.env.close()

    def _camera_of(self, model: Any) -> str | int:
        names = [model.camera(index).name for index in range(model.ncam)]
        if self._camera is not None:
            return self._camera
        return _CAMERA if _CAMERA in names else -1


def make_myosuite(id: str, kwargs: dict[str, Any]) -> gymnasium.Env:
    """Makes one of MyoSuite's environments.

    Raises:
        UnknownIdError: there is no such id.
        TypeError: MyoSuite does not know one of the kwargs.
        DimeError: MyoSuite is not installed.
    """
    import_myosuite()
    if id not in gymnasium.registry:
        raise UnknownIdError(id)
    adapter = {k: kwargs[k] for k in ("render_mode", "camera", "height", "width") if k in kwargs}
    kwargs = {key: value for key, value in kwargs.items() if key not in adapter}
    build = partial(gymnasium.make, id, disable_env_checker=True, **kwargs)
    with _printed_to_stderr() as printed, tidy_warnings():
        env = build()
    if "Unused kwargs found" in printed.getvalue():  # MyoSuite prints it and goes on
        raise TypeError("unused kwargs")
    remake = (
        partial(_quietly, build) if any(fnmatchcase(id, past) for past in _KEEP_A_PAST) else None
    )
    return MyoSuiteEnv(env, remake=remake, **adapter)


def _quietly(build: Callable[..., gymnasium.Env], seed: int) -> gymnasium.Env:
    with _printed_to_stderr(), tidy_warnings():
        return build(seed=seed)


def with_myosuite_seeding(env: gymnasium.Env) -> gymnasium.Env:
    """The same environment, made reproducible if it is one of MyoSuite's and is not yet."""
    if not any(kind.__module__.startswith("myosuite.") for kind in type(env.unwrapped).__mro__):
        return env
    layer: Any = env
    while isinstance(layer, gymnasium.Wrapper):
        if isinstance(layer, MyoSuiteEnv):
            return env
        layer = layer.env
    return MyoSuiteEnv(env, render_mode="rgb_array")


def import_myosuite() -> None:
    """Imports MyoSuite, which registers its environments with Gymnasium.

    Raises:
        DimeError: it is not installed.
    """
    choose_renderer()
    try:
        with contextlib.redirect_stdout(io.StringIO()), tidy_warnings():  # "Registering ..."
            import myosuite  # noqa: F401
    except ImportError as error:
        raise DimeError(
            f"MyoSuite is not installed ({error}); pip install 'dime-rl[myo]' brings it."
        ) from error


@contextlib.contextmanager
def _printed_to_stderr() -> Iterator[io.StringIO]:
    """MyoSuite prints credits; they are shown, but not among a command's own output."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield printed
    finally:
        sys.stderr.write(printed.getvalue())
