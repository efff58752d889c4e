"""What the runs achieved: final scores, ranks, aggregates over environments, data of charts."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from dime.envs.registry import suite_of
from dime.errors import DimeError
from dime.figures.curves import MIN_RUNS, Curve, Panel, Reference, Series, official_mode, panels_of
from dime.figures.runs import Run, by_environment
from dime.figures.style import METRIC_LABELS, curve_style, variants_of
from dime.statistics import bootstrap_interval, iqm
from dime.training.listeners import return_text

OFFICIAL = "official"
"""The choice of modes in which each algorithm is shown in the one that its paper reports."""

_UNITS = {"dm_control": ("DeepMind Control, return / 1000", 1000.0), "myosuite": ("MyoSuite", 1.0)}
_NUM_RESAMPLES = 2000
_SYMBOLS = {
    "o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down",
    "P": "cross", "X": "x", "<": "triangle-left", ">": "triangle-right", "h": "hexagon",
    "p": "pentagon",
}  # fmt: skip
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


class Final(NamedTuple):
    """A score: the interquartile mean, its 95 % interval, and what it was made of."""

    value: float
    interval: tuple[float, float] | None
    num_runs: set[int]
    env_step: int | None = None
    """None of an aggregate."""
    mode: str = ""


def final_scores(curve: Curve) -> np.ndarray:
    """(runs,), the scores at the last env step that all of a curve's runs share."""
    return np.array([history[curve.last_step] for history in curve.histories])


def final_of(curve: Curve) -> Final:
    """A curve's last point."""
    scores, band = final_scores(curve), curve.series.band
    interval = None if band is None else (float(band[0, -1]), float(band[1, -1]))
    value = float(iqm(scores[:, None]))
    return Final(value, interval, {len(scores)}, curve.last_step, curve.mode)


Known = dict[str, tuple[list[Run], Panel]]
"""By environment, runs and their results, to be kept from one call to the next."""


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


@dataclass(frozen=True)
class Scores:
    """A row of the table of final scores: one environment, or an aggregate over several."""

    title: str
    """The environment's id, or the unit of an aggregate."""
    metric: str
    """"return", "success_rate" or "aggregate"."""
    finals: dict[str, Final]
    """By algorithm and variant."""
    num_environments: int = 1

    @property
    def last_step(self) -> int | None:
        """The latest env step of a score; None without one."""
        return max((final.env_step or 0 for final in self.finals.values()), default=None)

    @cached_property
    def ranks(self) -> dict[str, int]:
        """Places by value, the highest first; equal values share one, NaN has none.

        >>> best, nothing = Final(2.0, None, {1}), Final(float("nan"), None, {1})
        >>> finals = {"a": Final(1.0, None, {1}), "b": best, "c": best, "d": nothing}
        >>> Scores("", "return", finals).ranks
        {'a': 3, 'b': 1, 'c': 1}
        """
        values = {kind: f.value for kind, f in self.finals.items() if np.isfinite(f.value)}
        return {k: 1 + sum(v > value for v in values.values()) for k, value in values.items()}


class ScoreTable(NamedTuple):
    """The final scores per environment, and aggregates over environments."""

    rows: list[Scores]
    aggregates: list[Scores]

    def of_kind(self, kind: str) -> list[Final]:
        """The scores of an algorithm and variant on single environments."""
        return [row.finals[kind] for row in self.rows if kind in row.finals]

    @property
    def kinds(self) -> set[str]:
        """The algorithms and variants that have a score."""
        return {kind for row in self.rows for kind in row.finals}

    @property
    def finals(self) -> list[Final]:
        """All scores on single environments."""
        return [final for row in self.rows for final in row.finals.values()]

    def differs(self, name: str) -> bool:
        """Whether the scores of an environment have several values of this field."""
        return any(len({getattr(f, name) for f in row.finals.values()}) > 1 for row in self.rows)


def score_table(panels: list[Panel], mode: str) -> ScoreTable:
    """The scores in a mode.

    An aggregate is over at least two environments whose scores have the same unit, for the kinds
    that have all of them.
    """
    shown = [(panel, chosen(panel, mode)) for panel in panels]
    rows = [
        Scores(p.environment, p.metric, {kind: final_of(c) for kind, c in by_kind.items()})
        for p, by_kind in shown
    ]
    groups: dict[str, list[dict[str, Curve]]] = defaultdict(list)
    for panel, by_kind in shown:
        suite = suite_of(panel.environment)
        if suite in _UNITS and (panel.metric == "success_rate") == (suite == "myosuite"):
            groups[suite].append(by_kind)
    aggregates = []
    for suite, group in groups.items():
        title, unit = _UNITS[suite]
        kinds = [kind for kind in group[0] if all(kind in one for one in group)]
        finals = {kind: pooled([final_scores(one[kind]) / unit for one in group]) for kind in kinds}
        if len(group) > 1:
            aggregates.append(Scores(title, "aggregate", finals, len(group)))
    return ScoreTable(rows, aggregates)


def pooled(tasks: list[np.ndarray]) -> Final:
    """The interquartile mean over runs and tasks; runs are resampled within each task.

    With unequal numbers of runs every run counts the same, so tasks with more of them weigh more.

    Args:
        tasks: of each task its scores (runs,), all in one unit.
    """
    counts = {len(scores) for scores in tasks}
    everything = np.concatenate(tasks)
    value = float(iqm(everything[:, None]))
    if min(counts) < MIN_RUNS:
        return Final(value, None, counts)
    if len(counts) == 1:
        low, high = bootstrap_interval(np.stack(tasks, axis=1), num_resamples=_NUM_RESAMPLES)
        return Final(value, (float(low), float(high)), counts)
    random = np.random.default_rng(0)
    drawn = [random.choice(scores, (_NUM_RESAMPLES, len(scores))) for scores in tasks]
    low, high = np.quantile(iqm(np.concatenate(drawn, axis=1)[..., None]), [0.025, 0.975])
    return Final(value, (float(low), float(high)), counts)


def looks_of(panels: list[Panel]) -> list[dict[str, str]]:
    """Colour, symbol and dash of each algorithm and variant; as far as possible the figures'."""
    curves = [curve for panel in panels for curve in panel.curves]
    variants = variants_of((curve.algorithm, curve.variant) for curve in curves)
    modes = {(curve.algorithm, curve.variant): curve.mode for curve in curves}
    kinds = [(name, variant) for name, own in variants.items() for variant in own]
    looks = []
    for place, kind in enumerate(kinds):
        style = curve_style(*kind, modes[kind], variants)
        look = {"colour": style["color"], "symbol": _SYMBOLS[style["marker"]]}
        dash = _DASHES[place % len(_DASHES)]
        looks.append({"kind": " ".join(kind).strip(), **look, "dash": dash})
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
