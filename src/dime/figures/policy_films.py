"""A film of chains on their way from the prior to actions."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import imageio
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from dime.deploy.video import refuse_unless_writable, write_video
from dime.errors import DimeError
from dime.figures.canvas import Draw, make_figure
from dime.figures.chains import bin_centres, bin_edges
from dime.figures.policy_figures import (
    CONTOURS_NOTE,
    DARK,
    FILL,
    TARGET,
    about,
    draw_contours,
    set_box,
)
from dime.figures.policy_views import NUM_POINTS, PolicyView, StateView

FRAMES_PER_SECOND = 4
"""Denoising steps per second."""
NUM_LAST_FRAMES = 8
"""How often the last denoising step is shown, before the film begins again."""
_DPI = 100
_LINE_NOTE = "Blue: share of chains per bin, relative to the fullest."
_PLANE_NOTE = f"Dots: {NUM_POINTS} chains. {CONTOURS_NOTE}"
_PANEL = 3.2, 3.2  # inches


def check_film(file: Path) -> None:
    """Refuses a film that `write_film` cannot write.

    Raises:
        DimeError: the suffix is neither .gif nor .mp4, or there is no encoder for the latter.
    """
    if file.suffix == ".mp4":
        refuse_unless_writable(file)
    elif file.suffix != ".gif":
        raise DimeError(f"A film of chains ends in .gif or .mp4, got {file.name}.")


def write_film(view: PolicyView, file: Path) -> Path:
    """Writes a film of the chains of every state, a frame per denoising step.

    Raises:
        DimeError: as `check_film`, or the file cannot be written.
    """
    check_film(file)
    try:
        if file.suffix == ".mp4":
            write_video(file, frames(view), FRAMES_PER_SECOND)
        else:
            pictures: list[Any] = list(frames(view))
            imageio.mimwrite(file, pictures, duration=1000 / FRAMES_PER_SECOND, loop=0)
    except OSError as error:
        raise DimeError(f"The film cannot be written to {file}: {error}.") from error
    return file


def frames(view: PolicyView) -> Iterator[np.ndarray]:
    """Pictures, uint8 (height, width, 3) of even size: one per denoising step, then the last."""
    updates: list[Callable[[int], None]] = []
    start = _start_line if len(view.plane) == 1 else _start_plane

    def draw(axes: Axes, state: StateView) -> None:
        updates.append(start(axes, state, view.plane))

    draws: list[Draw] = [partial(draw, state=state) for state in view.states]
    what = _LINE_NOTE if len(view.plane) == 1 else _PLANE_NOTE
    caption = [f"{about(view)}. {what} Temperature {view.temperature:.3g}."]
    figure = make_figure(draws, caption, panel_size=_PANEL)
    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    last = len(view.step_sizes)
    for step in range(last + 1):
        for update in updates:
            update(step)
        canvas.draw()
        picture = np.asarray(canvas.buffer_rgba())[..., :3]
        even = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2].copy()
        for _ in range(NUM_LAST_FRAMES if step == last else 1):
            yield even


def _start_plane(axes: Axes, state: StateView, plane: tuple[int, ...]) -> Callable[[int], None]:
    """Draws the contours; the result draws the chains as they are at a denoising step."""
    (dots,) = axes.plot([], [], ".", color=DARK, markersize=4, alpha=0.55, markeredgewidth=0)
    draw_contours(axes, state.density)
    set_box(axes)
    axes.set(xlabel=f"action {plane[0]}", ylabel=f"action {plane[1]}")

    def update(step: int) -> None:
        dots.set_data(*state.points[step].T)
        _set_title(axes, state, step)

    return update


def _start_line(axes: Axes, state: StateView, plane: tuple[int, ...]) -> Callable[[int], None]:
    """Draws exp(Q / temperature); the result draws the histogram at a denoising step."""
    bars = axes.stairs(state.mass[0], bin_edges(1), fill=True, color=FILL)
    expected = state.density / state.density.max()
    axes.plot(bin_centres(1), expected, color=TARGET, label="exp(Q / temperature)")
    axes.set(xlim=(-1.0, 1.0), ylim=(0.0, 1.1), yticks=())
    axes.set(xticks=(-1.0, -0.5, 0.0, 0.5, 1.0), xlabel=f"action {plane[0]}")

    def update(step: int) -> None:
        bars.set_data(state.mass[step] / state.mass[step].max())
        _set_title(axes, state, step)

    return update


def _set_title(axes: Axes, state: StateView, step: int) -> None:
    last = len(state.mass) - 1
    axes.set_title(f"env step {state.env_step}, denoising step {step} of {last}", fontsize=9)
