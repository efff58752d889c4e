"""Figure 7 of DIME's paper: the learnt diffusion of action dimensions over training."""

from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from dime.errors import DimeError
from dime.figures.canvas import Draw, check_output, make_figure, save
from dime.figures.curves import MIN_RUNS, History, Series, series_of
from dime.figures.figures import (
    colour_of,
    draw_series,
    plain_axes,
    shade,
    unevaluated_note,
)
from dime.figures.runs import Run, RunDirs, read_runs
from dime.training.records import read_records
from dime.training.run_directory import RunDirectory

METRIC = "diffusion_scale"
_NUM_PANELS = 4
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))

Histories = dict[tuple[Path, int], dict[int, np.ndarray]]
"""By run and seed, the scales of all action dimensions by env step."""


def draw_scales(run_dirs: RunDirs, output: str | Path, dims: Iterable[int] | None = None) -> Path:
    """Draws the learnt diffusion scale over env steps, a panel per action dimension.

    Runs of the same algorithm and variant are pooled, as in `learning_curves`.

    Args:
        run_dirs: folders of runs of `dime` or `dime-gb` on one environment, or of studies.
        output: where to; the suffix says the format (.png, .pdf, .svg, ...).
        dims: which action dimensions; by default up to four, evenly spaced.

    Returns:
        The file written.

    Raises:
        DimeError: the runs are on several environments, one has no diffusion scale in its
            records, there is no such action dimension, or the format cannot be written.
    """
    path = check_output(output)
    return save(scales_figure(run_dirs, dims), path)


def scales_figure(run_dirs: RunDirs, dims: Iterable[int] | None = None) -> Figure:
    """The figure that `draw_scales` writes."""
    runs = read_runs(run_dirs)
    by_kind: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_kind[run.kind].append(run)
    environment = _only_environment(runs)
    recorded = {kind: _recorded(of_kind) for kind, of_kind in by_kind.items()}
    action_dim = min(
        len(scales)
        for histories in recorded.values()
        for history in histories.values()
        for scales in history.values()
    )
    shown = default_dims(action_dim) if dims is None else _checked(dims, action_dim)
    styles = _styles(by_kind)
    series = {
        dim: {
            kind: series_of(_of_dimension(histories, dim), f"{kind} on {environment}")
            for kind, histories in recorded.items()
        }
        for dim in shown
    }
    drawn = [one for of_dim in series.values() for one in of_dim.values()]
    top = max(float((one.lines if one.band is None else one.band).max()) for one in drawn)
    draws: list[Draw] = [
        partial(_draw, series=series[dim], styles=styles, dim=dim, top=1.08 * top) for dim in shown
    ]
    caption = _caption(environment, action_dim, recorded)
    left_out = max(one.num_left_out for one in drawn)
    if left_out:
        caption.append(f"{left_out} env steps left out, not recorded for all seeds.")
    return make_figure(draws, [*caption, *unevaluated_note(run_dirs)])


def default_dims(action_dim: int) -> list[int]:
    """Up to four action dimensions, evenly spaced; of dog's 38 those of the paper.

    >>> default_dims(38), default_dims(6), default_dims(2)
    ([0, 10, 20, 30], [0, 2, 4], [0, 1])
    """
    return list(range(0, action_dim, -(-action_dim // _NUM_PANELS)))


def _only_environment(runs: list[Run]) -> str:
    environments = sorted({run.environment for run in runs})
    if len(environments) > 1:
        raise DimeError(
            f"The runs are on {', '.join(environments)}; action dimensions of several environments "
            "have nothing in common. Draw a figure for each."
        )
    return environments[0]


def _recorded(runs: list[Run]) -> Histories:
    histories: Histories = defaultdict(dict)
    for run in runs:
        records = list(read_records(RunDirectory(run.folder).metrics_file))
        found = [record for record in records if METRIC in record]
        if not found:
            raise DimeError(
                f"{run.folder} has no {METRIC} in its metrics.jsonl: it has made no updates "
                f"yet, or {run.config['algorithm']} does not learn one, as dime and dime-gb do."
            )
        for record in found:
            scales = np.asarray(record[METRIC], np.float64)
            histories[run.folder, record["seed"]][record["env_step"]] = scales
    return histories


def _checked(dims: Iterable[int], action_dim: int) -> list[int]:
    chosen = list(dims)
    if not chosen or not all(0 <= dim < action_dim for dim in chosen):
        raise DimeError(f"dims are {chosen}; the action's dimensions are 0 to {action_dim - 1}.")
    return chosen


def _of_dimension(histories: Histories, dim: int) -> list[History]:
    return [
        {env_step: float(scales[dim]) for env_step, scales in history.items()}
        for history in histories.values()
    ]


def _styles(by_kind: dict[str, list[Run]]) -> dict[str, dict[str, Any]]:
    """Colour by algorithm, shade and dashes by variant."""
    algorithms: dict[str, list[str]] = defaultdict(list)
    for kind, runs in by_kind.items():
        algorithms[runs[0].config["algorithm"]].append(kind)
    styles: dict[str, dict[str, Any]] = {}
    for algorithm, kinds in algorithms.items():
        for place, kind in enumerate(kinds):
            colour = shade(colour_of(algorithm), place, len(kinds))
            styles[kind] = {"color": colour, "linestyle": _DASHES[len(styles) % len(_DASHES)]}
    return styles


def _draw(
    axes: Axes,
    series: dict[str, Series],
    styles: dict[str, dict[str, Any]],
    dim: int,
    top: float,
) -> None:
    for kind, of_kind in series.items():
        draw_series(axes, of_kind, kind, {"zorder": 3, **styles[kind]})
    plain_axes(axes, f"action dimension {dim}", "env steps", "diffusion scale")
    axes.set_ylim(0.0, top)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def _caption(environment: str, action_dim: int, recorded: dict[str, Histories]) -> list[str]:
    counts = [len(histories) for histories in recorded.values()]
    seeds = "; ".join(f"{kind}: {count}" for kind, count in zip(recorded, counts, strict=True))
    text = f"Seeds: {seeds}."
    if max(counts) >= MIN_RUNS:
        text += (
            " Line: interquartile mean over seeds; band: 95 % stratified bootstrap interval "
            "(2000 resamples)."
        )
    if min(counts) < MIN_RUNS:
        text += f" With fewer than {MIN_RUNS} seeds each is a thin line of its own, no interval."
    return [
        f"Learnt diffusion on {environment}, whose actions have {action_dim} dimensions: what the "
        "cosine profile is multiplied by to give the chain's step sizes, in latent units squared, "
        "as recorded in training.",
        text,
    ]
