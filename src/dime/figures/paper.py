"""The figures of the paper by number, each from the records of its study."""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dime.algorithms.registry import ALGORITHMS
from dime.errors import DimeError, choose, require
from dime.figures.canvas import check_output, make_figure, save
from dime.figures.captions import learning_caption
from dime.figures.curves import MIN_RUNS, History, Panel, panels_of, score, series_of
from dime.figures.figures import (
    METRIC_LABELS,
    colour_of,
    learning_panels,
    plain_axes,
    unevaluated_note,
)
from dime.figures.gallery import gallery_figure
from dime.figures.reference import read_reference
from dime.figures.runs import Run, RunDirs, flatten, read_runs
from dime.figures.scales import scales_figure
from dime.figures.small_tasks import bandit_histograms
from dime.figures.temperatures import temperature_chains_figure

_TEMPERATURE = "settings.temperature.initial"
_NUM_STEPS = "settings.policy.num_denoising_steps"


_POINTS_NOTE = (
    "Dots: runs. Line: their interquartile mean, bars: its 95 % stratified bootstrap interval; "
    "with fewer than three runs their mean, no interval."
)


class Point(NamedTuple):
    """Runs of one setting: its value, and a number for each of them."""

    setting: float
    numbers: np.ndarray


def draw_figure(
    name: str, run_dirs: RunDirs, output: str | Path, reference: str | Path | None = None
) -> Path:
    """Draws a figure of the paper from records.

    Every algorithm is shown in its official evaluation mode.

    Args:
        name: number of the figure, as "2a", or "comparison".
        run_dirs: folders of its study or of runs; none for "5".
        output: where to; the suffix says the format (.png, .pdf, .svg).
        reference: curves to draw beside them, as for `learning_curves`.

    Returns:
        The file written.

    Raises:
        DimeError: no such figure, or its runs are not what it shows.
    """
    path = check_output(output)
    return save(paper_figure(name, run_dirs, reference), path)


def paper_figure(name: str, run_dirs: RunDirs, reference: str | Path | None = None) -> Figure:
    """The figure that `draw_figure` writes."""
    choose("figure", name, FIGURES)
    folders = [run_dirs] if isinstance(run_dirs, str | Path) else list(run_dirs)
    if name == "5":
        require(not folders, "Figure 5 shows the environments: it takes no runs.")
        return gallery_figure()
    require(bool(folders), f"Figure {name} is drawn from runs: {FIGURES[name].study}.")
    draw = FIGURES[name].draw
    return draw(folders, reference) if FIGURES[name].takes_reference else draw(folders)


def official(runs: list[Run]) -> list[Run]:
    """The runs with the records of one mode: their algorithm's official one, or their first."""
    shown = []
    for run in runs:
        algorithm = ALGORITHMS.get(run.config["algorithm"])
        modes = [record["mode"] for record in run.records]
        mode = algorithm.official_mode if algorithm else modes[0]
        mode = mode if mode in modes else modes[0]
        records = [record for record in run.records if record["mode"] == mode]
        shown.append(run._replace(records=records))
    return shown


def _curves(run_dirs: RunDirs, reference: str | Path | None = None) -> Figure:
    """Learning curves, one per algorithm and setting."""
    curves = read_reference(reference)
    panels = panels_of(official(read_runs(run_dirs)))
    caption = [*learning_caption(panels, curves), *unevaluated_note(run_dirs)]
    return make_figure(learning_panels(panels, curves), caption)


def final_score_points(runs: list[Run], panel: Panel, setting: str) -> tuple[int, list[Point]]:
    """The last env step that all runs share, and the scores there by the value of a setting.

    Raises:
        DimeError: the runs lack the setting or share no env step.
    """
    histories = _histories(official(runs), panel.metric)
    shared = set.intersection(*(set(history) for of in histories.values() for history in of))
    require(bool(shared), "The runs share no evaluated env step.")
    last = max(shared)
    require(last > 0, "The runs share no evaluation after env step 0.")
    settings = _settings(runs, setting)
    by_value: dict[float, list[float]] = defaultdict(list)
    for folder, of_run in histories.items():
        by_value[settings[folder]] += [history[last] for history in of_run]
    return last, [Point(value, np.array(by_value[value])) for value in sorted(by_value)]


def wall_clock_points(runs: list[Run], setting: str) -> list[Point]:
    """Hours per million env steps between evaluations, by the value of a setting.

    Of runs with more than two, the time up to the second is left out: compilation is in it. One
    number per run directory: seeds that share a program share its time.
    """
    settings = _settings(runs, setting)
    by_value: dict[float, list[float]] = defaultdict(list)
    for run in runs:
        steps_evaluated = sorted({record["env_step"] for record in run.records})
        begin = steps_evaluated[1 if len(steps_evaluated) > 2 else 0]
        # The last record of an evaluation: its own time is not to be counted either.
        first = [record for record in run.records if record["env_step"] == begin][-1]
        last = run.records[-1]
        steps = last["env_step"] - first["env_step"]
        require(steps > 0, f"{run.folder} has only one evaluation: there is no time between two.")
        seconds = last["wall_time_s"] - first["wall_time_s"]
        by_value[settings[run.folder]].append(seconds / steps * 1e6 / 3600)
    return [Point(value, np.array(by_value[value])) for value in sorted(by_value)]


def _settings(runs: list[Run], setting: str) -> dict[Path, float]:
    values = {run.folder: flatten(run.config).get(setting) for run in runs}
    for folder, value in values.items():
        if not isinstance(value, int | float):
            raise DimeError(f"{folder} has no number {setting}; the figure is drawn over it.")
    return {folder: float(value) for folder, value in values.items()}  # pyright: ignore[reportArgumentType]


def _histories(runs: list[Run], metric: str) -> dict[Path, list[History]]:
    """By run directory, the history of each of its seeds."""
    histories: dict[Path, dict[int, History]] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        for record in run.records:
            value = score(record, metric)
            histories[run.folder][record["seed"]][record["env_step"]] = value
    return {folder: list(by_seed.values()) for folder, by_seed in histories.items()}


def _final_scores(run_dirs: RunDirs) -> Figure:
    """Figure 2b: the last score by temperature."""
    runs = read_runs(run_dirs)
    panels = panels_of(official(runs))
    draws = []
    for panel in panels:
        own = [run for run in runs if run.environment == panel.environment]
        last, points = final_score_points(own, panel, _TEMPERATURE)
        label = f"{METRIC_LABELS[panel.metric]} at env step {last:,}"
        draws.append(partial(_draw_points, points=points, title=panel.environment, label=label))
    note = (
        "Scores at the last env step that all runs share, against the initial temperature (fixed "
        f"in the study figure_2ab). {_POINTS_NOTE}"
    )
    caption = [note, *learning_caption(panels, None)[1:], *unevaluated_note(run_dirs)]
    return make_figure([partial(draw, xlabel="temperature") for draw in draws], caption)


def _wall_clock(run_dirs: RunDirs) -> Figure:
    """Figure 3b: wall-clock time by the number of denoising steps."""
    runs = read_runs(run_dirs)
    draws = []
    for environment in dict.fromkeys(run.environment for run in runs):
        own = [run for run in runs if run.environment == environment]
        points = wall_clock_points(own, _NUM_STEPS)
        label = "hours per 1M env steps"
        draws.append(partial(_draw_points, points=points, title=environment, label=label))
    seeds = sorted({len(run.config["training"]["seeds"]) for run in runs})
    shared = " and ".join(map(str, seeds))
    caption = [
        f"Wall-clock time of whole runs, evaluations included, extrapolated to 1M env steps of "
        f"{shared} seed{'s' if seeds != [1] else ''} in one program; up to the second evaluation, "
        f"where programs are compiled, not counted. {_POINTS_NOTE} Runs that shared a machine "
        "slowed each other.",
        *unevaluated_note(run_dirs),
    ]
    figure = make_figure([partial(draw, xlabel="denoising steps") for draw in draws], caption)
    for axes in figure.axes:
        axes.set_ylim(bottom=0.0)  # times are compared as ratios
    return figure


def _draw_points(axes: Axes, points: list[Point], title: str, label: str, xlabel: str) -> None:
    """The number of each run over the setting, on a logarithmic axis, and the line between."""
    settings = [point.setting for point in points]
    colour = colour_of("dime")
    histories: list[Any] = [
        series_of([{0: float(number)} for number in point.numbers], title) for point in points
    ]
    middle = [float(np.mean(series.lines)) for series in histories]
    axes.plot(settings, middle, "-", color=colour, linewidth=1.6, zorder=3)
    for point, series in zip(points, histories, strict=True):
        many = [point.setting] * len(point.numbers)
        axes.plot(many, point.numbers, "o", color=colour, markersize=4, alpha=0.55, zorder=4)
        if series.band is not None and len(point.numbers) >= MIN_RUNS:
            low, high = series.band[:, 0]
            axes.plot([point.setting] * 2, [low, high], color=colour, linewidth=4, alpha=0.25)
    axes.set_xscale("log")
    if max(settings) <= 1024 and min(settings) >= 1:
        axes.set_xticks(settings, [f"{setting:g}" for setting in settings], minor=False)
        axes.minorticks_off()
    plain_axes(axes, title, xlabel, label)


def _comparison(run_dirs: RunDirs) -> Figure:
    """Every algorithm on the small tasks: curves, and what each does on the two-mode bandit."""
    runs = read_runs(run_dirs)
    panels = panels_of(official(runs))
    draws, note = bandit_histograms([run.folder for run in runs])
    caption = [*learning_caption(panels, None), note, *unevaluated_note(run_dirs)]
    return make_figure([*learning_panels(panels, None), *draws], caption)


class _PaperFigure(NamedTuple):
    draw: Callable[..., Figure]
    study: str
    takes_reference: bool = False


def _learning(study: str) -> _PaperFigure:
    return _PaperFigure(_curves, f"those of the study {study}", takes_reference=True)


FIGURES = {
    "1": _PaperFigure(temperature_chains_figure, "those of the study figure_1"),
    "2a": _learning("figure_2ab"),
    "2b": _PaperFigure(_final_scores, "those of the study figure_2ab"),
    "2c": _learning("figure_2cd"),
    "2d": _learning("figure_2cd"),
    "3a": _learning("figure_3ab"),
    "3b": _PaperFigure(_wall_clock, "those of the study figure_3ab"),
    "3c": _learning("figure_3cd"),
    "3d": _learning("figure_3cd"),
    "4": _learning("figure_4"),
    "5": _PaperFigure(gallery_figure, ""),
    "6": _learning("figure_6 or figure_6c"),
    "7": _PaperFigure(scales_figure, "those of the study figure_7"),
    "8": _learning("figure_8"),
    "9": _learning("figure_9"),
    "comparison": _PaperFigure(_comparison, "those of the studies comparison or two_modes"),
}
"""By number; "comparison" is ours."""
