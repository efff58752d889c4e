"""What the template `assets/report.html` shows: scores, charts, settings, machines."""

import json
import math
import shlex
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
from matplotlib.ticker import EngFormatter

from dime.envs.registry import suite_of
from dime.errors import DimeError
from dime.figures.curves import MIN_RUNS, Curve, Panel, Reference, Series, official_mode, panels_of
from dime.figures.learning import learning_caption
from dime.figures.runs import Run, by_environment, flatten
from dime.figures.style import METRIC_LABELS, curve_style, variants_of
from dime.report.sources import Entry, Sources, typed
from dime.statistics import bootstrap_interval, iqm
from dime.training.listeners import return_text

OFFICIAL = "official"
"""The choice of modes in which each algorithm is shown in the one that its paper reports."""

_NO_SETTINGS = {"env", "algorithm", "training.seeds"}
_UNITS = {
    "dm_control": ("DeepMind Control, return / 1000", "return", 1000.0),
    "myosuite": ("MyoSuite", "success_rate", 1.0),
}
_SYMBOLS = {
    "o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down",
    "P": "cross", "X": "x", "<": "triangle-left", ">": "triangle-right", "h": "hexagon",
    "p": "pentagon",
}  # fmt: skip
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

Known = dict[str, tuple[list[Run], Panel]]
"""By environment, runs and their results, to be kept from one call to the next."""


def content_of(
    sources: Sources, known: Known, reference: Reference | None = None
) -> dict[str, Any]:
    """What the template needs of the records: tables, charts' data and captions, by name."""
    entries = sources["entries"]
    results = results_of((entry.run for entry in entries if entry.run), known)
    panels = [result for result in results if not result.problem]
    modes = list(dict.fromkeys(curve.mode for panel in panels for curve in panel.curves))
    starts = [(entry.name, start) for entry in entries for start in entry.starts]
    return {
        **sources,
        "results": results,
        "total_steps": sum((e.env_step or 0) * len(e.seeds) for e in entries),
        "metrics": METRIC_LABELS,
        "charts": {panel.environment: chart_data(panel, reference) for panel in panels},
        "caption": learning_caption(panels, reference) if panels else ["No curves yet."],
        "looks": looks_of(panels),
        "reference": reference,
        "scores": {
            mode: score_table(panels, mode) for mode in [OFFICIAL] * (len(modes) > 1) + modes
        },
        "kinds": list(dict.fromkeys(entry.kind for entry in entries if entry.config)),
        "settings": _differing_settings(entries),
        "configs": _grouped((_config_text(entry), entry) for entry in entries if entry.config),
        "paces": _grouped(((e.kind, _machine(e)), e) for e in entries if e.pace),
        "commands": _grouped((_command(start), name) for name, start in starts if _command(start)),
        "versions": _grouped((_versions(start), name) for name, start in starts),
    }


def _differing_settings(entries: list[Entry]) -> dict[str, dict[str, list[str]]]:
    """By name and by kind, the values of the settings that differ between or within kinds."""
    values: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    kinds = {entry.kind for entry in entries if entry.config}
    for entry in entries:
        for name, value in flatten(entry.config).items():
            seen = values[name.removeprefix("settings.")][entry.kind]
            text = value if isinstance(value, str) else json.dumps(value)
            if name not in _NO_SETTINGS and text not in seen:
                seen.append(text)

    return {
        name: of
        for name, of in sorted(values.items())
        if len({text for kind in kinds for text in of.get(kind, [None])}) > 1
    }


def _config_text(entry: Entry) -> str:
    """The config without its seeds: what runs that are listed together have in common."""
    training = typed(dict, entry.config.get("training")) | {"seeds": None}
    return json.dumps(entry.config | {"training": training}, sort_keys=True)


def _machine(entry: Entry) -> str:
    return " · ".join(f"{s.get('device')} · {s.get('platform')}" for s in entry.starts[-1:]) or "–"


def _command(start: dict[str, Any]) -> str:
    """As it was typed, without the program's folder; "" for a worker of a sweep."""
    words = [str(word) for word in typed(list, start.get("command"))]
    worker = words[:1] and words[0].endswith("default_worker.py")
    return "" if worker else shlex.join([PurePath(word).name for word in words[:1]] + words[1:])


def _versions(start: dict[str, Any]) -> tuple[str, ...]:
    libraries = typed(dict, start.get("versions")).items()
    return (
        *(str(start.get(key) or "–") for key in ("dime", "git_commit", "python", "platform")),
        f"{start.get('device', '–')} ({start.get('backend', '–')})",
        ", ".join(f"{name} {version}" for name, version in libraries),
    )


def _grouped(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, list[Any]]:
    """The second of each pair by the first, each once."""
    groups: dict[Any, list[Any]] = defaultdict(list)
    for key, value in pairs:
        if value not in groups[key]:
            groups[key].append(value)
    return groups


class Final(NamedTuple):
    """A score: the interquartile mean, its 95 % interval, and what it was made of."""

    value: float
    interval: tuple[float, float] | None
    num_runs: set[int]
    env_step: int | None = None  # None for an aggregate
    mode: str = ""


def results_of(runs: Iterable[Run], known: Known) -> list[Panel]:
    """The curves per environment, in the order of the runs.

    Runs that cannot be averaged make a panel with a problem. What `known` has of the same runs is
    not computed again; it is brought up to date.
    """
    before = dict(known)
    known.clear()
    for environment, group in by_environment(runs).items():
        same, panel = before.get(environment, ([], None))
        if panel is None or list(map(id, same)) != list(map(id, group)):
            try:
                (panel,) = panels_of(group)
            except DimeError as error:
                panel = Panel(environment, "return", [], str(error))
        known[environment] = group, panel
    return [panel for _, panel in known.values()]


def chosen(panel: Panel, mode: str) -> dict[str, Curve]:
    """One curve per algorithm and variant: that of a mode, or of the official one."""
    shown = {}
    for curve in panel.curves:
        modes = [other.mode for other in panel.curves if other.kind == curve.kind]
        if curve.mode == (official_mode(curve.algorithm, modes) if mode == OFFICIAL else mode):
            shown[curve.kind] = curve
    return shown


class Scores(NamedTuple):
    """A row of the table of final scores: one environment, or an aggregate over several."""

    title: str  # the environment's id, or the unit of an aggregate
    metric: str  # "return", "success_rate" or "aggregate"
    finals: dict[str, Final]  # by algorithm and variant
    num_environments: int = 1

    @property
    def last_step(self) -> int | None:
        """The latest env step of a score; None without one."""
        return max((final.env_step or 0 for final in self.finals.values()), default=None)

    @property
    def ranks(self) -> dict[str, int]:
        """Places by value, the highest first; equal values share one, NaN has none."""
        values = {kind: f.value for kind, f in self.finals.items() if np.isfinite(f.value)}
        return {k: 1 + sum(v > value for v in values.values()) for k, value in values.items()}


class ScoreTable(NamedTuple):
    """The final scores per environment, and aggregates over environments."""

    rows: list[Scores]
    aggregates: list[Scores]

    @property
    def finals(self) -> dict[str, list[Final]]:
        """By algorithm and variant, the scores on single environments."""
        return _grouped(pair for row in self.rows for pair in row.finals.items())

    def differs(self, name: str) -> bool:
        """Whether the scores of an environment have several values of this field."""
        return any(len({getattr(f, name) for f in row.finals.values()}) > 1 for row in self.rows)


def score_table(panels: list[Panel], mode: str) -> ScoreTable:
    """The scores in a mode.

    An aggregate is over at least two environments whose scores have the same unit, for the kinds
    that have all of them.
    """
    rows = [_row(p.environment, p.metric, [chosen(p, mode)], 1.0) for p in panels]
    aggregates = []
    for suite, (title, metric, unit) in _UNITS.items():
        of_suite = [panel for panel in panels if suite_of(panel.environment) == suite]
        group = [chosen(panel, mode) for panel in of_suite if panel.metric == metric]
        if len(group) > 1:
            aggregates.append(_row(title, "aggregate", group, unit))
    return ScoreTable(rows, aggregates)


def _row(title: str, metric: str, group: list[dict[str, Curve]], unit: float) -> Scores:
    kinds = [kind for kind in group[0] if all(kind in one for one in group)]
    finals = {kind: _final([one[kind] for one in group], unit) for kind in kinds}
    return Scores(title, metric, finals, len(group))


def _final(curves: list[Curve], unit: float) -> Final:
    """The interquartile mean over runs and environments, at the curves' last env steps.

    It has an interval if environments have the same number of runs, at least three. Every run
    counts the same, so environments with more of them weigh more.
    """
    tasks = [np.array([h[curve.last_step] for h in curve.histories]) / unit for curve in curves]
    counts, interval = {len(scores) for scores in tasks}, None
    if len(counts) == 1 and min(counts) >= MIN_RUNS:
        low, high = bootstrap_interval(np.stack(tasks, axis=1))
        interval = float(low), float(high)
    value = float(iqm(np.concatenate(tasks)[:, None]))
    if len(curves) > 1:
        return Final(value, interval, counts)
    return Final(value, interval, counts, curves[0].last_step, curves[0].mode)


def looks_of(panels: list[Panel]) -> list[dict[str, str]]:
    """Colour, symbol and dash of each algorithm and variant; as far as possible the figures'."""
    pairs = ((curve.algorithm, curve.variant) for panel in panels for curve in panel.curves)
    variants, looks = variants_of(pairs), []
    for kind in ((name, variant) for name, own in variants.items() for variant in own):
        style = curve_style(*kind, "stochastic", variants)
        look = {"kind": " ".join(kind).strip(), "colour": style["color"]}
        dash = _DASHES[len(looks) % len(_DASHES)]
        looks.append({**look, "symbol": _SYMBOLS[style["marker"]], "dash": dash})
    return looks


def chart_data(panel: Panel, reference: Reference | None) -> dict[str, Any]:
    """What the page's script draws for one environment, as JSON values."""
    official = set(map(id, chosen(panel, OFFICIAL).values()))
    curves = []
    for curve in panel.curves:
        # of each run that continues beyond the curve, the scores from the curve's last env step
        tails = ({s: h[s] for s in sorted(h) if s >= curve.last_step} for h in curve.histories)
        tails = [{"x": list(t), "y": _rounded(t.values())} for t in tails if len(t) > 1]
        names = {"kind": curve.kind, "mode": curve.mode, "official": id(curve) in official}
        curves.append({**names, **_series_data(curve.series), "tails": tails})
    data = {"metric": METRIC_LABELS[panel.metric], "curves": curves, "reference": None}
    published = reference and reference.find(panel.environment, panel.metric)
    if reference is not None and published is not None:
        lines = [line for curve in curves for line in [curve, *curve["tails"]]]
        shown = published.until(max(line["x"][-1] for line in lines))
        data["reference"] = {"kind": reference.name, **_series_data(shown)}
    return data


def _series_data(series: Series) -> dict[str, Any]:
    low, high = (None, None) if series.band is None else map(_rounded, series.band)
    return {
        "x": [int(step) for step in series.env_step],
        "lines": [_rounded(line) for line in series.lines],
        "low": low,
        "high": high,
        "runs": series.num_runs,
    }


def _rounded(values: Iterable[float]) -> list[float | None]:
    """To six significant digits; None for what is not finite, which JSON does not have."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]


def score_text(value: float | None, metric: str) -> str:
    """A score with the digits that matter; None is a score that was not finite.

    >>> [score_text(value, "return") for value in (12528.4, 945.23, 3.14159, -3e-6, float("nan"))]
    ['12,528', '945.2', '3.14', '-3e-06', 'not a number']
    >>> score_text(0.725, "success_rate"), score_text(0.725, "aggregate")
    ('0.72', '0.725')
    """
    if value is None or not math.isfinite(value):
        return "not a number"
    if metric != "return":
        return f"{value:.{3 if metric == 'aggregate' else 2}f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else return_text(value)


def steps_text(steps: float) -> str:
    """A number of env steps, as "1.23M"."""
    return EngFormatter(sep="")(float(f"{steps:.3g}"))
