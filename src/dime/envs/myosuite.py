"""MyoSuite's environments (muscle-driven hands, arms, legs)."""

import contextlib
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import gymnasium
import numpy as np

from dime.envs.rendering import ModelCamera, choose_renderer
from dime.errors import DimeError

PREFIXES = ("myo", "motorfinger")
_CAMERA = "hand_side_inter"  # shows the hand and the object; the others mostly the room
_KEEP_STATE = (
    "MyoHand*Random-v0",
    "myo*ChallengeBaoding*",
    "myo*ChallengeChaseTag*",
    "myo*ChallengeDieReorient*",
)
"""Tasks that draw random numbers when they are made, or change their model or muscles for good."""


class MyoSuiteEnv(gymnasium.Wrapper):
    """Makes a MyoSuite environment reproducible from `reset(seed=...)`, and renders it.

    MyoSuite 2.x ignores the seed of `reset` and has a `seed` method of its own.

    `remake` re-creates it from a seed at every reset, for those that keep state between episodes.
    `camera` is a name, by default a camera that shows the hand; `height` and `width` are those of
    an image, in pixels. It renders in either `render_mode`, "rgb_array" or None.
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
        self._camera = ModelCamera(camera, height, width, default=_CAMERA)

    @property
    def render_mode(self) -> str | None:
        """As given when it was made."""
        return self._render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
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
        inner: Any = self.env.unwrapped
        return self._camera.image(inner.mj_model, inner.mj_data)

    def close(self) -> None:
        """Frees the OpenGL context."""
        self._camera.close()
        self.env.close()


def make_myosuite(id: str, kwargs: dict[str, Any]) -> gymnasium.Env | None:
    """Makes one of MyoSuite's environments, if there is one of this id.

    Raises:
        TypeError: MyoSuite does not know one of the kwargs.
        DimeError: MyoSuite is not installed.
    """
    import_myosuite()
    if id not in gymnasium.registry:
        return None
    adapter = {k: kwargs[k] for k in ("render_mode", "camera", "height", "width") if k in kwargs}
    kwargs = {key: value for key, value in kwargs.items() if key not in adapter}
    build = partial(gymnasium.make, id, disable_env_checker=True, **kwargs)
    with _printed_to_stderr() as printed:
        env = build()
    if "Unused kwargs found" in printed.getvalue():  # MyoSuite prints it and continues
        raise TypeError("unused kwargs")
    keeps_state = any(fnmatchcase(id, pattern) for pattern in _KEEP_STATE)
    return MyoSuiteEnv(env, remake=partial(_remake, build) if keeps_state else None, **adapter)


def _remake(build: Callable[..., gymnasium.Env], seed: int) -> gymnasium.Env:
    with _printed_to_stderr(), warnings.catch_warnings(action="ignore"):
        return build(seed=seed)


def with_myosuite_seeding(env: gymnasium.Env) -> gymnasium.Env:
    """The same environment, made reproducible if it is one of MyoSuite's and is not yet."""
    if not any(kind.__module__.startswith("myosuite.") for kind in type(env.unwrapped).__mro__):
        return env
    layer: Any = env
    while isinstance(layer, gymnasium.Wrapper) and not isinstance(layer, MyoSuiteEnv):
        layer = layer.env
    return env if layer is not env.unwrapped else MyoSuiteEnv(env, render_mode="rgb_array")


def import_myosuite() -> None:
    """Imports MyoSuite, which registers its environments; `DimeError` if it is not installed."""
    choose_renderer()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # "Registering ..."
            with warnings.catch_warnings(action="ignore"):
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
