"""What the runs achieved: final scores, ranks, aggregates over environments, data of charts."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dime.algorithms.registry import ALGORITHMS
from dime.envs.registry import suite_of
from dime.errors import DimeError
from dime.figures.curves import MIN_RUNS, Curve, History, Panel, Series, panels_of, score
from dime.figures.figures import METRIC_LABELS, curve_style, until, variants_of
from dime.figures.reference import Reference
from dime.figures.runs import Run
from dime.statistics import bootstrap_interval, iqm

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
    """A score: the interquartile mean, its 95 % interval, and what it was made of.

    `env_step` and `mode` are None and "" of an aggregate.
    """

    value: float
    interval: tuple[float, float] | None
    num_runs: set[int]
    env_step: int | None = None
    mode: str = ""


class Outcome(NamedTuple):
    """A curve, and of its runs what the curve leaves out.

    Attributes:
        curve: the pooled runs.
        finals: (runs,), scores at the last env step that all runs share.
        tails: of each run that goes on beyond that env step, its env steps from there and scores.
    """

    curve: Curve
    finals: np.ndarray
    tails: list[tuple[list[int], list[float]]]

    @property
    def final(self) -> Final:
        """Its last point."""
        series = self.curve.series
        band = None if series.band is None else (series.band[0, -1], series.band[1, -1])
        return Final(
            float(iqm(self.finals[:, None])),
            None if band is None else (float(band[0]), float(band[1])),
            {len(self.finals)},
            int(series.env_step[-1]),
            self.curve.mode,
        )


class Result(NamedTuple):
    """What there is of one environment; `panel` is None if `problem` says why."""

    environment: str
    panel: Panel | None
    outcomes: list[Outcome]
    problem: str = ""

    @property
    def metric(self) -> str:
        """The quantity: "return" or "success_rate"."""
        return self.panel.metric if self.panel else "return"

    def chosen(self, mode: str) -> dict[str, Outcome]:
        """One outcome per algorithm and variant: that of a mode, or of the official one."""
        by_kind: dict[str, list[Outcome]] = defaultdict(list)
        for outcome in self.outcomes:
            by_kind[outcome.curve.kind].append(outcome)
        if mode == OFFICIAL:
            return {kind: official(outcomes) for kind, outcomes in by_kind.items()}
        return {o.curve.kind: o for o in self.outcomes if o.curve.mode == mode}


def official(outcomes: list[Outcome]) -> Outcome:
    """The outcome in the algorithm's official mode; in its first, if that was not evaluated.

    An algorithm from elsewhere is not imported to be asked: a report runs no code of its runs.
    """
    algorithm = ALGORITHMS.get(outcomes[0].curve.algorithm)
    wanted = algorithm.official_mode if algorithm else ""
    return next((o for o in outcomes if o.curve.mode == wanted), outcomes[0])


class Analyst:
    """Computes results; those of an environment whose runs are the same are kept."""

    def __init__(self):
        self._known: dict[str, tuple[list[Run], Result]] = {}

    def results(self, runs: Iterable[Run]) -> list[Result]:
        """The results per environment, in the order of the runs."""
        by_environment: dict[str, list[Run]] = defaultdict(list)
        for run in runs:
            by_environment[run.environment].append(run)
        before, self._known = self._known, {}
        for environment, group in by_environment.items():
            known, result = before.get(environment, ([], None))
            if result is None or list(map(id, known)) != list(map(id, group)):
                result = result_of(environment, group)
            self._known[environment] = group, result
        return [result for _, result in self._known.values()]


def result_of(environment: str, runs: list[Run]) -> Result:
    """The result of an environment; runs that cannot be averaged make it a problem, no error."""
    try:
        (panel,) = panels_of(runs)
    except DimeError as error:
        return Result(environment, None, [], str(error))
    return Result(environment, panel, [_outcome(c, panel.metric, runs) for c in panel.curves])


def _outcome(curve: Curve, metric: str, runs: list[Run]) -> Outcome:
    histories: dict[tuple[Path, int], History] = defaultdict(dict)
    for run in (run for run in runs if run.kind == curve.kind):
        for record in run.records:
            if record["mode"] == curve.mode:
                history = histories[run.folder, record["seed"]]
                history[record["env_step"]] = score(record, metric)
    last = int(curve.series.env_step[-1])
    finals = np.array([history[last] for history in histories.values()])
    tails = []
    for history in histories.values():
        steps = [step for step in sorted(history) if step >= last]
        if len(steps) > 1:
            tails.append((steps, [history[step] for step in steps]))
    return Outcome(curve, finals, tails)


@dataclass(frozen=True)
class Scores:
    """A row of the table of final scores: one environment, or an aggregate over several.

    Attributes:
        title: the environment's id, or the unit of an aggregate.
        metric: "return", "success_rate" or "aggregate".
        finals: a score by algorithm and variant.
        num_environments: how many it is of.
    """

    title: str
    metric: str
    finals: dict[str, Final]
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

    @property
    def unequal(self) -> list[str]:
        """Algorithms and variants whose environments have unequal numbers of seeds."""
        return [kind for kind, final in self.finals.items() if len(final.num_runs) > 1]


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


def score_table(results: list[Result], mode: str) -> ScoreTable:
    """The scores in a mode.

    An aggregate is over at least two environments whose scores have the same unit, for the kinds
    that have all of them.
    """
    chosen = [(result, result.chosen(mode)) for result in results]
    rows = [
        Scores(r.environment, r.metric, {kind: o.final for kind, o in by_kind.items()})
        for r, by_kind in chosen
    ]
    groups: dict[str, list[dict[str, Outcome]]] = defaultdict(list)
    for result, by_kind in chosen:
        suite = suite_of(result.environment)
        if suite in _UNITS and (result.metric == "success_rate") == (suite == "myosuite"):
            groups[suite].append(by_kind)
    aggregates = []
    for suite, group in groups.items():
        title, unit = _UNITS[suite]
        kinds = [kind for kind in group[0] if all(kind in one for one in group)]
        finals = {kind: pooled([one[kind].finals / unit for one in group]) for kind in kinds}
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


def mode_choices(results: list[Result]) -> list[str]:
    """The modes that a reader can choose between; the official ones first if there are several."""
    modes = dict.fromkeys(o.curve.mode for result in results for o in result.outcomes)
    return [OFFICIAL, *modes] if len(modes) > 1 else list(modes)


def looks_of(panels: list[Panel]) -> list[dict[str, str]]:
    """Colour, symbol and dash of each algorithm and variant; as far as possible the figures'."""
    variants = variants_of(panels)
    curves = {curve.kind: curve for panel in panels for curve in panel.curves}
    order = [f"{name} {variant}".strip() for name, of in variants.items() for variant in of]
    styles = {kind: curve_style(curves[kind], variants) for kind in order}
    return [
        {
            "kind": kind,
            "colour": style["color"],
            "symbol": _SYMBOLS[style["marker"]],
            "dash": _DASHES[place % len(_DASHES)],
        }
        for place, (kind, style) in enumerate(styles.items())
    ]


def chart_data(result: Result, reference: Reference | None) -> dict[str, Any]:
    """What the page's script draws for one environment, as JSON values."""
    official = {id(outcome.curve) for outcome in result.chosen(OFFICIAL).values()}
    data: dict[str, Any] = {
        "metric": METRIC_LABELS[result.metric],
        "curves": [
            {
                "kind": outcome.curve.kind,
                "mode": outcome.curve.mode,
                "official": id(outcome.curve) in official,
                **_series_data(outcome.curve.series),
                "tails": [{"x": steps, "y": _rounded(scores)} for steps, scores in outcome.tails],
            }
            for outcome in result.outcomes
        ],
        "reference": None,
    }
    published = reference and reference.find(result.environment, result.metric)
    if reference is not None and published is not None:
        ends = [int(o.curve.series.env_step[-1]) for o in result.outcomes]
        ends += [steps[-1] for o in result.outcomes for steps, _ in o.tails]
        data["reference"] = {"kind": reference.name, **_series_data(until(published, max(ends)))}
    return data


def _series_data(series: Series) -> dict[str, Any]:
    low, high = (None, None) if series.band is None else map(_rounded, series.band)
    return {
        "x": [int(step) for step in series.env_step],
        "lines": [_rounded(line) for line in series.lines],
        "low": low,
        "high": high,
    }


def _rounded(values: Iterable[float]) -> list[float | None]:
    """To six significant digits; None for what is not finite, which JSON does not have."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]


class Point(NamedTuple):
    """Scores of a curve at an env step: its IQM and interval, or one of each run.

    `num_runs` says how many runs reached it if not all did.
    """

    values: list[float]
    interval: tuple[float, float] | None = None
    num_runs: int | None = None


def points_of(outcome: Outcome) -> dict[int, Point]:
    """What a chart shows of an outcome, by env step: the curve, and the single runs beyond it."""
    series = outcome.curve.series
    points = {}
    for place, step in enumerate(series.env_step):
        band = None if series.band is None else (series.band[0, place], series.band[1, place])
        points[int(step)] = Point(list(series.lines[:, place]), band)
    beyond: dict[int, list[float]] = defaultdict(list)
    for steps, scores in outcome.tails:
        for step, value in zip(steps[1:], scores[1:], strict=True):
            beyond[step].append(value)
    return points | {s: Point(values, num_runs=series.num_runs) for s, values in beyond.items()}
