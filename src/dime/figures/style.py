"""The figures' style: panels in a grid, legend above, caption below; colours and curves.

`matplotlib.pyplot` is not used: figures are drawn with the Agg backend wherever this runs.
"""

import math
import textwrap
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from dime.algorithms.registry import ALGORITHMS
from dime.errors import DimeError, require
from dime.figures.curves import Series

Draw = Callable[[Axes], None]
"""Draws one panel."""

PANEL_SIZE = 3.8, 3.0  # inches
_MIN_WIDTH = 6.0  # inches; a single panel is made this wide, for the caption's sake
_MAX_COLUMNS = 4
_CAPTION_SIZE, _LEGEND_SIZE = 7.5, 8.5  # points
_LINE_HEIGHT = 1.5 / 72  # inches per point of the font's size
_CHARACTERS_PER_INCH = 17.0  # of the caption's font, on average

# Colours that colour-blind readers can distinguish; in grey the markers differ.
_COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#332288", "#999933"),
    *("#882255", "#56B4E9", "#E69F00", "#117733", "#AA4499", "#44AA99", "#8C6D31"),
)
_MARKERS = "os^DvPX<>hp"
_MODE_DASHES = {"stochastic": "-", "deterministic": (0, (4, 2)), "best_of_n": (0, (1, 1.5))}
METRIC_LABELS = {"return": "return", "success_rate": "success rate"}


def check_output(output: str | Path) -> Path:
    """The path of a figure; raises `DimeError` if its suffix is none of a picture's."""
    path = Path(output)
    suffixes = sorted(set(FigureCanvasAgg.get_supported_filetypes()) - {"pgf"})  # needs LaTeX
    require(
        path.suffix.lower().removeprefix(".") in suffixes,
        f"A figure cannot be written as {path.name}. Choose a name ending in .png, .pdf or .svg "
        f"(possible: {', '.join(suffixes)}).",
    )
    return path


def make_figure(
    draws: list[Draw],
    caption: list[str],
    *,
    columns: int | None = None,
    panel_size: tuple[float, float] = PANEL_SIZE,
) -> Figure:
    """A figure of panels, `panel_size` in inches, with one legend and paragraphs of text below."""
    # up to three panels side by side, more of them in a square, never more than four a row
    square = min(_MAX_COLUMNS, math.ceil(math.sqrt(len(draws))))
    columns = columns or (len(draws) if len(draws) <= 3 else square)
    rows = math.ceil(len(draws) / columns)
    width = max(_MIN_WIDTH, columns * panel_size[0])
    text = "\n".join(textwrap.fill(line, int(width * _CHARACTERS_PER_INCH)) for line in caption)
    with _plain_style():
        size = width, rows * panel_size[1]
        figure = Figure(figsize=size, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for draw, panel in zip(draws, axes, strict=False):
            draw(panel)
        for panel in axes[len(draws) :]:
            panel.remove()
        legend_rows = _add_legend(figure)
        figure.supxlabel(
            text, x=0.01, ha="left", fontsize=_CAPTION_SIZE, linespacing=1.3, parse_math=False
        )
        extra = _CAPTION_SIZE * (text.count("\n") + 2) + _LEGEND_SIZE * (legend_rows + 1)
        figure.set_size_inches(width, size[1] + extra * _LINE_HEIGHT)
    return figure


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what writes a file: makes the folders above it; raises `DimeError` if either fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise DimeError(f"{path.name} cannot be written to {path.parent}: {error}.") from error


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure; raises what `writing` does."""
    with writing(path), _plain_style():
        figure.savefig(path, dpi=160)
    return path


def _add_legend(figure: Figure) -> int:
    """One legend for the panels' labels, each once, front to back; returns its rows."""
    entries = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    entries = dict(sorted(entries.items(), key=lambda entry: -entry[1].get_zorder()))
    look = {"loc": "outside upper center", "frameon": False, "handlelength": 3.2}
    for columns in range(len(entries), 0, -1):
        handles, labels = list(entries.values()), list(entries)
        legend = figure.legend(handles, labels, ncols=columns, fontsize=_LEGEND_SIZE, **look)
        if columns == 1 or legend.get_window_extent().width < figure.bbox.width:
            return math.ceil(len(entries) / columns)
        legend.remove()
    return 0


@contextmanager
def _plain_style() -> Iterator[None]:
    """Matplotlib's defaults, whatever the user's own settings are."""
    with matplotlib.style.context("default"), matplotlib.rc_context({"svg.hashsalt": "dime"}):
        yield


def plain_axes(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    """Title and labels; a light grid below, and an open frame."""
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    open_frame(axes)


def open_frame(axes: Axes) -> None:
    """No frame above and to the right."""
    axes.spines[["top", "right"]].set_visible(False)


def env_step_axis(axes: Axes) -> None:
    """Few round ticks, as "500k"."""
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def draw_series(axes: Axes, series: Series, label: str, style: dict[str, Any]) -> None:
    """Draws the band below, the line or lines above; only the first line has a label."""
    x, every = series.env_step, -(-len(series.env_step) // 8)  # eight markers per line
    width = 0.8 if series.band is None else 1.8
    for number, line in enumerate(series.lines):
        shown = label if number == 0 else "_nolegend_"
        axes.plot(x, line, label=shown, linewidth=width, markevery=every, **style)
    if series.band is not None:
        band = {"color": style["color"], "alpha": 0.18, "linewidth": 0, "zorder": 2}
        axes.fill_between(x, *series.band, **band)


def colour_of(algorithm: str) -> str:
    """The colour of an algorithm, the same in every figure and report, as "#RRGGBB"."""
    return _COLOURS[_place(algorithm) % len(_COLOURS)]  # 13 colours, 11 markers: 143 pairs


def _place(algorithm: str) -> int:
    known = list(ALGORITHMS)
    return known.index(algorithm) if algorithm in known else zlib.crc32(algorithm.encode())


def variants_of(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The variants of each algorithm, of pairs of algorithm and variant, in their order."""
    variants: dict[str, list[str]] = {}
    for algorithm, variant in dict.fromkeys(pairs):
        variants.setdefault(algorithm, []).append(variant)
    return variants


def curve_style(
    algorithm: str, variant: str, mode: str, variants: dict[str, list[str]]
) -> dict[str, Any]:
    """Colour by algorithm, shade and marker by variant, dashes and filling by mode."""
    number = variants[algorithm].index(variant)
    white = 0.6 * number / max(len(variants[algorithm]) - 1, 1)  # a variant's shade
    red, green, blue = (part + (1.0 - part) * white for part in to_rgb(colour_of(algorithm)))
    colour = to_hex((red, green, blue))
    return {
        "color": colour,
        "linestyle": _MODE_DASHES.get(mode, (0, (6, 2, 1, 2))),
        "marker": _MARKERS[(_place(algorithm) + number) % len(_MARKERS)],
        "zorder": 3,
        "markersize": 4.5,
        "markerfacecolor": colour if mode == "stochastic" else "white",
    }
