"""Figures as files: panels in a grid, a legend above, a caption below; no global state.

`matplotlib.pyplot` is not used: figures are drawn with the Agg backend wherever this runs.
"""

import math
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from dime.errors import DimeError

Draw = Callable[[Axes], None]
"""Draws one panel."""

_PANEL_SIZE = 3.8, 3.0  # inches
_MIN_WIDTH = 6.0  # inches; a single panel is made this wide, for the caption's sake
_MAX_COLUMNS = 4
_CAPTION_SIZE, _LEGEND_SIZE = 7.5, 8.5  # points
_LEGEND_LINE, _LEGEND_GAPS = 3.2, 3.2  # of an entry, in units of the legend's size
_LINE_HEIGHT = 1.5 / 72  # inches per point of the font's size
_CHARACTERS_PER_INCH = 17.0  # of the caption's font, on average
_NEEDS_LATEX = "pgf"


def check_output(output: str | Path) -> Path:
    """The path of a figure that can be written.

    Raises:
        DimeError: the suffix is none of a picture's.

    >>> check_output("curves.txt")
    Traceback (most recent call last):
    ...
    dime.errors.DimeError: A figure cannot be written as curves.txt. Choose a name ending in ...
    """
    path = Path(output)
    suffixes = sorted(set(FigureCanvasAgg.get_supported_filetypes()) - {_NEEDS_LATEX})
    if path.suffix.lower().removeprefix(".") not in suffixes:
        raise DimeError(
            f"A figure cannot be written as {path.name}. Choose a name ending in .png, .pdf or "
            f".svg (possible: {', '.join(suffixes)})."
        )
    return path


def make_figure(
    draws: list[Draw],
    caption: list[str],
    *,
    columns: int | None = None,
    panel_size: tuple[float, float] = _PANEL_SIZE,
) -> Figure:
    """A figure of these panels, with one legend for all of them.

    Args:
        draws: one function per panel, row by row.
        caption: paragraphs to stand below.
        columns: panels in a row; by default as many as make a compact figure.
        panel_size: width and height of a panel, in inches.
    """
    columns = columns or _num_columns(len(draws))
    rows = math.ceil(len(draws) / columns)
    width = max(_MIN_WIDTH, columns * panel_size[0])
    text = _wrapped(caption, width)
    with _plain_style():
        figure = Figure(facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(rows, columns, squeeze=False)
        for place, axes in enumerate(grid.flat):
            if place < len(draws):
                draws[place](axes)
            else:
                axes.remove()
        legend_rows = _add_legend(figure, width)
        figure.supxlabel(
            text, x=0.01, ha="left", fontsize=_CAPTION_SIZE, linespacing=1.3, parse_math=False
        )
        extra = _CAPTION_SIZE * (text.count("\n") + 2) + _LEGEND_SIZE * (legend_rows + 1)
        figure.set_size_inches(width, rows * panel_size[1] + extra * _LINE_HEIGHT)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure, the folders above it too where they are missing.

    Raises:
        DimeError: the file cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _plain_style():
            figure.savefig(path, dpi=160)
    except OSError as error:
        raise DimeError(f"The figure cannot be written to {path}: {error}.") from error
    return path


def _num_columns(num_panels: int) -> int:
    """Up to three panels side by side, more of them in a square, never more than four a row."""
    return num_panels if num_panels <= 3 else min(_MAX_COLUMNS, math.ceil(math.sqrt(num_panels)))


def _wrapped(paragraphs: list[str], width: float) -> str:
    characters = int(width * _CHARACTERS_PER_INCH)
    return "\n".join(textwrap.fill(paragraph, characters) for paragraph in paragraphs)


def _add_legend(figure: Figure, width: float) -> int:
    """One legend for the panels' labels, each once, front to back; returns its rows."""
    entries = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if not entries:
        return 0
    entries = dict(sorted(entries.items(), key=lambda entry: -entry[1].get_zorder()))
    columns = min(len(entries), max(1, int(72 * width / _widest_entry(entries))))
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside upper center",
        ncols=columns,
        fontsize=_LEGEND_SIZE,
        frameon=False,
        handlelength=_LEGEND_LINE,
    )
    return math.ceil(len(entries) / columns)


def _widest_entry(labels: Iterable[str]) -> float:
    """Of a legend, with its line and the gaps around it; in points."""
    font = FontProperties(size=_LEGEND_SIZE)
    text = max(TextPath((0, 0), label, prop=font).get_extents().x1 for label in labels)
    return text + (_LEGEND_LINE + _LEGEND_GAPS) * _LEGEND_SIZE


@contextmanager
def _plain_style() -> Iterator[None]:
    """Matplotlib's defaults, whatever the user's own settings are."""
    with matplotlib.style.context("default"), matplotlib.rc_context({"svg.hashsalt": "dime"}):
        yield
