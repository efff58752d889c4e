"""The figures of runs: learning curves, and paths on the multi-goal plane."""

import zlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from dime.algorithms.registry import ALGORITHMS
from dime.deploy.policy import load_policy
from dime.errors import DimeError
from dime.figures.canvas import Draw, check_output, make_figure, save
from dime.figures.captions import learning_caption
from dime.figures.curves import Curve, Panel, Series, panels_of
from dime.figures.paths import ENVIRONMENT, PATHS_NOTE, draw_paths, paths_caption, play_paths
from dime.figures.reference import Reference, read_reference
from dime.figures.runs import Run, RunDirs, read_runs, studies_among, unevaluated_trials
from dime.training.run_directory import RunDirectory

# Colours that colour-blind readers tell apart; the marker tells algorithms apart in grey.
_COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#332288", "#999933"),
    *("#882255", "#56B4E9", "#E69F00", "#117733", "#AA4499", "#44AA99", "#8C6D31"),
)
_MARKERS = "os^DvPX<>hp"
_MODE_DASHES = {"stochastic": "-", "deterministic": (0, (4, 2)), "best_of_n": (0, (1, 1.5))}
_OTHER_DASHES = (0, (6, 2, 1, 2))
_REFERENCE_STYLE = {"color": "#555555", "linestyle": (0, (6, 1.5, 1, 1.5)), "zorder": 2.5}
METRIC_LABELS = {"return": "return", "success_rate": "success rate"}
_NUM_MARKERS = 8  # per line
_NUM_PATHS = 50
_LIGHTEST = 0.6  # of white in the last variant's shade


def learning_curves(
    run_dirs: RunDirs, output: str | Path, reference: str | Path | None = None
) -> Path:
    """Draws score over env steps: a panel per environment, a curve per algorithm and action mode.

    A curve is the interquartile mean over seeds with its 95 % stratified bootstrap interval; with
    fewer than three seeds, each seed is drawn by itself. Runs of the same environment and
    algorithm are pooled. The score is the return; for MyoSuite's environments the success rate.

    Args:
        run_dirs: folders of runs.
        output: where to; the suffix says the format (.png, .pdf, .svg, ...).
        reference: curves to draw beside them: "shipped" for the published ones of DIME, or a CSV
            file (`read_reference` says its columns).

    Returns:
        The file written.

    Raises:
        DimeError: one of the folders is not a run or has no evaluations yet, the reference cannot
            be read, or the format cannot be written.
    """
    path = check_output(output)
    return save(learning_figure(run_dirs, reference), path)


def multi_goal_paths(run_dir: str | Path, output: str | Path, num_episodes: int = 50) -> Path:
    """Draws stochastic episodes of a run's newest checkpoint on the multi-goal plane.

    Args:
        run_dir: a run on `dime/MultiGoal-v0`.
        output: as for `learning_curves`.
        num_episodes: how many paths.

    Returns:
        The file written.

    Raises:
        DimeError: not a run on that environment, a damaged checkpoint or none, fewer than one
            episode, or the format cannot be written.
    """
    path = check_output(output)
    return save(paths_figure(run_dir, num_episodes), path)


def plot(
    run_dirs: RunDirs,
    output: str | Path,
    reference: str | Path | None = None,
    by: Iterable[str] = (),
) -> Path:
    """Draws what there is to see of runs: learning curves, and paths of multi-goal runs.

    Arguments, result and errors are those of `learning_curves`; `by` names settings that tell runs
    of one algorithm apart, as "settings.discount". A multi-goal run without a checkpoint has no
    paths yet; the caption says so. Of a study no paths are drawn.
    """
    path = check_output(output)
    return save(plot_figure(run_dirs, reference, by), path)


def learning_figure(run_dirs: RunDirs, reference: str | Path | None = None) -> Figure:
    """The figure that `learning_curves` writes."""
    draws, captions = _learning(read_runs(run_dirs), read_reference(reference))
    return make_figure(draws, [*captions, *unevaluated_note(run_dirs)])


def paths_figure(run_dir: str | Path, num_episodes: int = 50) -> Figure:
    """The figure that `multi_goal_paths` writes."""
    environment = RunDirectory.open(Path(run_dir)).config()["env"]
    if environment != ENVIRONMENT:
        raise DimeError(
            f"{run_dir} is a run on {environment}; paths are drawn on {ENVIRONMENT} only."
        )
    draw, caption = _paths(Path(run_dir), num_episodes)
    return make_figure([draw], [caption, PATHS_NOTE])


def plot_figure(
    run_dirs: RunDirs, reference: str | Path | None = None, by: Iterable[str] = ()
) -> Figure:
    """The figure that `plot` writes."""
    runs = read_runs(run_dirs, by)
    draws, captions = _learning(runs, read_reference(reference))
    in_studies = {trial for study in studies_among(run_dirs) for trial in study.begun}
    folders = [
        run.folder
        for run in runs
        if run.environment == ENVIRONMENT and run.folder not in in_studies
    ]
    with_paths = [folder for folder in folders if RunDirectory(folder).checkpoints.steps()]
    for folder in with_paths:
        draw, caption = _paths(folder, _NUM_PATHS)
        draws.append(draw)
        captions.append(caption)
    if with_paths:
        captions.append(PATHS_NOTE)
    captions += unevaluated_note(run_dirs)
    waiting = ", ".join(_name(folder) for folder in folders if folder not in with_paths)
    if waiting:
        captions.append(f"No paths of {waiting}: no checkpoint yet.")
    return make_figure(draws, captions)


def _learning(runs: list[Run], reference: Reference | None) -> tuple[list[Draw], list[str]]:
    panels = panels_of(runs)
    return learning_panels(panels, reference), learning_caption(panels, reference)


def learning_panels(panels: list[Panel], reference: Reference | None) -> list[Draw]:
    """What draws the curves of each panel."""
    variants = variants_of(panels)
    return [
        partial(draw_panel, panel=panel, variants=variants, reference=reference) for panel in panels
    ]


def unevaluated_note(run_dirs: RunDirs) -> list[str]:
    """What a caption says of trials that a study plans and no figure can show yet."""
    silent = {study.name: len(unevaluated_trials(study)) for study in studies_among(run_dirs)}
    return [
        f"Left out of {name}: {count} trials that have no evaluations yet."
        for name, count in silent.items()
        if count
    ]


def _paths(run_dir: Path, num_episodes: int) -> tuple[Draw, str]:
    paths = play_paths(load_policy(run_dir, mode="stochastic"), num_episodes)
    name = _name(run_dir)
    title = f"{ENVIRONMENT}: paths\n{name}"
    return partial(draw_paths, paths=paths, title=title), paths_caption(paths, name)


def _name(run_dir: Path) -> str:
    return run_dir.resolve().name


def variants_of(panels: list[Panel]) -> dict[str, list[str]]:
    """The variants of each algorithm, in the order in which they are shown."""
    variants: dict[str, list[str]] = {}
    for curve in (curve for panel in panels for curve in panel.curves):
        of_algorithm = variants.setdefault(curve.algorithm, [])
        if curve.variant not in of_algorithm:
            of_algorithm.append(curve.variant)
    return variants


def draw_panel(
    axes: Axes, panel: Panel, variants: dict[str, list[str]], reference: Reference | None
) -> None:
    """Draws the curves of one environment, and the reference as far as they reach."""
    for curve in panel.curves:
        draw_series(axes, curve.series, curve.label, curve_style(curve, variants))
    published = reference and reference.find(panel.environment, panel.metric)
    if reference is not None and published is not None:
        last = max(int(curve.series.env_step[-1]) for curve in panel.curves)
        draw_series(axes, until(published, last), reference.name, _REFERENCE_STYLE)
        if last > 0:
            axes.set_xlim(-0.03 * last, 1.03 * last)
    plain_axes(axes, panel.environment, "env steps", METRIC_LABELS[panel.metric])
    if panel.metric == "success_rate":
        axes.set_ylim(-0.03, 1.03)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def plain_axes(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    """Title and labels; a light grid below, and no frame above and to the right."""
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def draw_series(axes: Axes, series: Series, label: str, style: dict[str, Any]) -> None:
    """Draws the band below, the line or lines above; only the first line has a label."""
    width = 0.8 if series.band is None else 1.8
    every = -(-len(series.env_step) // _NUM_MARKERS)
    for number, line in enumerate(series.lines):
        shown = label if number == 0 else "_nolegend_"
        axes.plot(series.env_step, line, label=shown, linewidth=width, markevery=every, **style)
    if series.band is not None:
        low, high = series.band
        axes.fill_between(
            series.env_step, low, high, color=style["color"], alpha=0.18, linewidth=0, zorder=2
        )


def colour_of(algorithm: str) -> str:
    """The colour of an algorithm, the same in every figure and report, as "#RRGGBB"."""
    return _COLOURS[_place(algorithm) % len(_COLOURS)]  # 13 colours, 11 markers: 143 pairs


def shade(colour: str, place: int, count: int) -> str:
    """The colour of the `place`-th of `count` variants: from the colour itself towards white.

    >>> shade("#0072B2", 0, 3), shade("#0072B2", 2, 3)
    ('#0072b2', '#99c7e0')
    """
    white = _LIGHTEST * place / max(count - 1, 1)
    red, green, blue = (part + (1.0 - part) * white for part in to_rgb(colour))
    return to_hex((red, green, blue))


def curve_style(curve: Curve, variants: dict[str, list[str]]) -> dict[str, Any]:
    """Colour by algorithm, shade and marker by variant, dashes and filling by mode."""
    of_algorithm = variants[curve.algorithm]
    number = of_algorithm.index(curve.variant)
    colour = shade(colour_of(curve.algorithm), number, len(of_algorithm))
    return {
        "color": colour,
        "linestyle": _MODE_DASHES.get(curve.mode, _OTHER_DASHES),
        "marker": _MARKERS[(_place(curve.algorithm) + number) % len(_MARKERS)],
        "zorder": 3,
        "markersize": 4.5,
        "markerfacecolor": colour if curve.mode == "stochastic" else "white",
    }


def _place(algorithm: str) -> int:
    known = list(ALGORITHMS)
    return known.index(algorithm) if algorithm in known else zlib.crc32(algorithm.encode())


def until(series: Series, last: int) -> Series:
    """The series up to the first point at or beyond `last`, so that the line leaves the panel."""
    count = int(np.searchsorted(series.env_step, last)) + 1
    band = None if series.band is None else series.band[:, :count]
    return Series(series.env_step[:count], series.lines[:, :count], band, series.num_runs)
