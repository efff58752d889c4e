"""Figure 5 and table 1 of DIME's paper: its environments, pictured, with their sizes."""

import textwrap
from collections.abc import Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dime.envs.registry import make
from dime.errors import DimeError
from dime.figures.canvas import Draw, check_output, make_figure, save

PAPER_ENVIRONMENTS = (
    *(f"dm_control/dog-{task}" for task in ("stand", "walk", "trot", "run")),
    *(f"dm_control/humanoid-{task}" for task in ("stand", "walk", "run")),
    *("Ant-v3-compatible", "Humanoid-v4"),
    *(f"myoHand{task}Random-v0" for task in ("ObjHold", "Reach", "KeyTurn", "PenTwirl")),
)
"""The thirteen of the paper; Humanoid-v4 has the sizes of its Humanoid-v3."""

_MAX_COLUMNS, _PANEL_SIZE = 5, (2.5, 2.5)  # inches
_REASON_WIDTH, _REASON_LENGTH = 34, 320  # characters
_MAX_PIXELS = 480  # of a picture's longer side in the figure


class Portrait(NamedTuple):
    """An environment's first frame and sizes, or why there are none.

    Attributes:
        name: the environment's id.
        obs_dim: length of its observations; None where it could not be made.
        action_dim: length of its actions; None where it could not be made.
        frame: uint8 (height, width, 3); None where it could not be rendered.
        reason: why not; "" where it could.
    """

    name: str
    obs_dim: int | None
    action_dim: int | None
    frame: np.ndarray | None
    reason: str = ""

    @property
    def sizes(self) -> str:
        """Both sizes in words."""
        if self.obs_dim is None:
            return "not made here"
        return f"observation {self.obs_dim}, action {self.action_dim}"


def draw_gallery(output: str | Path, environments: Iterable[str] | None = None) -> Path:
    """Draws the first frame of each environment, with the sizes of observations and actions.

    An environment that cannot be made or rendered here has a panel with the reason.

    Args:
        output: where to; the suffix says the format (.png, .pdf, .svg, ...).
        environments: their ids; by default the paper's thirteen.

    Returns:
        The file written.

    Raises:
        DimeError: no environment is named, or the format cannot be written.
    """
    path = check_output(output)
    return save(gallery_figure(environments), path)


def gallery_figure(environments: Iterable[str] | None = None) -> Figure:
    """The figure that `draw_gallery` writes."""
    names = list(PAPER_ENVIRONMENTS if environments is None else environments)
    if not names:
        raise DimeError("There is nothing to draw: name at least one environment.")
    portraits = [portrait_of(name) for name in names]
    draws: list[Draw] = [partial(_draw, portrait=portrait) for portrait in portraits]
    missing = [portrait.name for portrait in portraits if portrait.frame is None]
    caption = [
        f"{len(names)} environments: the first frame of the episode with seed 0, rendered by the "
        "environment with its own camera; length of an observation and of an action, as the "
        "algorithms see them."
    ]
    if missing:
        caption.append(f"Not pictured here, for the reason given: {', '.join(missing)}.")
    columns = min(_MAX_COLUMNS, len(names))
    return make_figure(draws, caption, columns=columns, panel_size=_PANEL_SIZE)


def portrait_of(name: str) -> Portrait:
    """Makes, resets and renders an environment; whatever it raises is the reason it is without."""
    obs_dim, action_dim = None, None
    try:
        with closing(make(name, render=True)) as environment:
            obs_dim, action_dim = environment.obs_dim, environment.action_dim
            environment.reset(0)
            return Portrait(name, obs_dim, action_dim, _thinned(environment.render()))
    except Exception as error:  # the environments' own are of any kind
        reason = str(error) if isinstance(error, DimeError) else f"{type(error).__name__}: {error}"
        return Portrait(name, obs_dim, action_dim, None, reason)


def _thinned(frame: np.ndarray) -> np.ndarray:
    """The frame with no more pixels than the figure can show."""
    every = -(-max(frame.shape[:2]) // _MAX_PIXELS)
    return frame[::every, ::every]


def _draw(axes: Axes, portrait: Portrait) -> None:
    axes.set_title(f"{portrait.name}\n{portrait.sizes}", fontsize=8, parse_math=False)
    axes.set(xticks=(), yticks=())
    axes.spines[:].set_color("#999999")
    if portrait.frame is not None:
        axes.imshow(portrait.frame)
        return
    reason = textwrap.shorten(portrait.reason, _REASON_LENGTH, placeholder=" ...")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", facecolor="#f4f4f4")
    text = textwrap.fill(reason, _REASON_WIDTH)
    axes.text(0.5, 0.5, text, fontsize=6, ha="center", va="center", parse_math=False)
