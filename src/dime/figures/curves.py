"""From runs to learning curves: pooled runs and their scores; reference curves."""

import csv
import json
import textwrap
from collections import defaultdict
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dime.algorithms.registry import ALGORITHMS
from dime.envs.registry import suite_of
from dime.errors import DimeError, require
from dime.figures.runs import OPERATIONAL, Run, by_environment, flatten
from dime.statistics import bootstrap_interval, iqm

MIN_RUNS = 3
"""Fewer runs than this have no interval worth drawing."""

SHIPPED = "shipped"
_NOTE = "the authors' published curves, 10 seeds, stochastic actions, 5 episodes per evaluation"
_SUMMARY = ["environment", "metric", "env_step", "iqm", "ci_low", "ci_high"]
_SCORES = ["environment", "metric", "seed", "env_step", "score"]

History = dict[int, float]
"""The score of one run by env step."""


class Series(NamedTuple):
    """The scores of some runs."""

    env_step: np.ndarray  # (points,)
    lines: np.ndarray
    """(1, points), the IQM over runs; with fewer than three (runs, points), every run."""
    band: np.ndarray | None
    """(2, points), ends of the 95 % interval; None with fewer than three runs."""
    num_runs: int | None  # how many runs it is made of; None if that is not known
    num_left_out: int = 0  # env steps at which some of the runs were evaluated, but not all

    def until(self, last: int) -> "Series":
        """Up to the first point at or beyond `last`, so that the line leaves the panel."""
        count = int(np.searchsorted(self.env_step, last)) + 1
        band = None if self.band is None else self.band[:, :count]
        return Series(self.env_step[:count], self.lines[:, :count], band, self.num_runs)


class Curve(NamedTuple):
    """The runs of one algorithm and variant on one environment under one action mode."""

    algorithm: str
    variant: str
    mode: str
    series: Series
    histories: list[History]  # the scores of each run, also those that the series leaves out
    num_episodes: frozenset[int]
    """The numbers of episodes that its evaluations have; mostly one number."""
    remarks: list[str]  # what of its runs is not drawn, and what should not have been pooled

    @property
    def label(self) -> str:
        """Its name in a legend."""
        return f"{self.kind}, {self.mode.replace('_', ' ')}"

    @property
    def kind(self) -> str:
        """Algorithm and variant."""
        return f"{self.algorithm} {self.variant}".strip()

    @property
    def last_step(self) -> int:
        """The last env step at which all of its runs were evaluated."""
        return int(self.series.env_step[-1])


class Panel(NamedTuple):
    """The curves of one environment."""

    environment: str
    metric: str  # "return" or "success_rate"
    curves: list[Curve]
    problem: str = ""  # why a report has no curves


def official_mode(algorithm: str, modes: list[str]) -> str:
    """The mode of these that the algorithm's paper reports; the first if that is not among them."""
    known = ALGORITHMS.get(algorithm)  # one from elsewhere is not imported to be asked
    return known.official_mode if known and known.official_mode in modes else modes[0]


def panels_of(runs: list[Run]) -> list[Panel]:
    """The learning curves of these runs, one panel per environment in the order of the runs.

    Runs of the same environment, algorithm and variant are pooled, whatever folder they are in.
    Raises `DimeError` if such runs share no evaluated env step.
    """
    return [_panel(environment, group) for environment, group in by_environment(runs).items()]


def _panel(environment: str, runs: list[Run]) -> Panel:
    records = [record for run in runs for record in run.records]
    reported = all(None not in (record["success_last"] or [None]) for record in records)
    metric = "success_rate" if reported and suite_of(environment) == "myosuite" else "return"
    by_kind: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        for mode in dict.fromkeys(record["mode"] for record in run.records):
            by_kind[run.kind, mode].append(run)
    curves = [_curve(pooled, mode, metric) for (_, mode), pooled in by_kind.items()]
    kinds = list(dict.fromkeys(kind for kind, _ in by_kind))
    # stochastic before deterministic, as in the paper; variants in the order of the runs
    curves.sort(key=lambda c: (c.algorithm, kinds.index(c.kind), c.mode != "stochastic", c.mode))
    return Panel(environment, metric, curves)


def _curve(runs: list[Run], mode: str, metric: str) -> Curve:
    histories = histories_of(runs, mode, metric)
    episodes = {len(r["returns"]) for run in runs for r in run.records if r["mode"] == mode}
    first = runs[0]
    series = series_of(histories.values(), f"{first.kind} ({mode}) on {first.environment}")
    silent = sum(len(run.config["training"]["seeds"]) for run in runs) - len(histories)
    repeated = len(histories) - len({seed for _, seed in histories})
    different = _differences([run.config for run in runs])
    remarks = {
        f"{series.num_left_out} of its env steps left out, not evaluated for all of its "
        "seeds": series.num_left_out,
        f"{silent} of its seeds left out, not evaluated at all": silent,
        f"{repeated} of its seeds counted more than once, from several folders": repeated,
        f"pooled runs differ in {different}": different,
    }
    return Curve(
        first.config["algorithm"],
        first.variant,
        mode,
        series,
        list(histories.values()),
        frozenset(episodes),
        [text for text, applies in remarks.items() if applies],
    )


def span(values: Iterable[int]) -> str:
    """One value, or the ends of several, as "2 to 10"."""
    ordered = sorted(values)
    return " to ".join(map(str, dict.fromkeys([ordered[0], ordered[-1]])))


def histories_of(runs: Iterable[Run], mode: str, metric: str) -> dict[tuple[Path, int], History]:
    """The scores of each run in a mode, by run directory and seed."""
    histories: dict[tuple[Path, int], History] = defaultdict(dict)
    for run in runs:
        for record in run.records:
            if record["mode"] == mode:
                episodes = record["returns" if metric == "return" else "success_last"]
                score = float(np.mean(np.array(episodes, np.float64)))  # NaN if an episode has none
                histories[run.folder, record["seed"]][record["env_step"]] = score
    return histories


def series_of(histories: Iterable[History], name: str) -> Series:
    """The IQM over runs and its interval, at the env steps that all runs share.

    Raises `DimeError` with the `name` of the runs if they share no env step.
    """
    runs = list(histories)
    shared = sorted(set.intersection(*map(set, runs)))
    if not shared:
        raise DimeError(
            f"The runs of {name} share no evaluated env step, so they cannot be averaged. Draw "
            "them in separate figures, or evaluate them at the same intervals (evaluate_every)."
        )
    scores = np.array([[history[step] for step in shared] for history in runs])
    lines, band = scores, None
    if len(runs) >= MIN_RUNS:
        by_point = scores.T[:, :, None]  # (points, runs, one task)
        lines, band = iqm(by_point)[None], np.stack(bootstrap_interval(by_point))
    num_left_out = len(set().union(*runs)) - len(shared)
    return Series(np.array(shared), lines, band, len(runs), num_left_out)


def _differences(configs: list[dict[str, Any]]) -> str:
    """The settings that change the learning and are not the same in all configs, the first few."""
    flat = [flatten(config) for config in configs]
    names = sorted(set().union(*flat) - OPERATIONAL)
    different = [n for n in names if len({json.dumps(settings.get(n)) for settings in flat}) > 1]
    text = ", ".join(name.removeprefix("settings.") for name in different)
    return textwrap.shorten(text, 100, placeholder=" ...")


class Reference(NamedTuple):
    """Curves to draw beside one's own."""

    name: str
    note: str  # their origin
    series: dict[tuple[str, str], Series]  # by environment and metric ("return" or "success_rate")

    def find(self, environment: str, metric: str) -> Series | None:
        """The curve for an environment; `Ant-v3-compatible` is compared with Ant-v3."""
        return self.series.get((environment.removesuffix("-compatible"), metric))


def read_reference(reference: str | Path | None) -> Reference | None:
    """Reads reference curves.

    Args:
        reference: "shipped" (the published curves of DIME), or a CSV file with the columns
            environment, metric, env_step, iqm, ci_low, ci_high; or environment, metric, seed,
            env_step, score, of which IQM and interval are computed. None for none.

    Raises:
        DimeError: no such file, other columns, a cell that is not a number, or no rows.
    """
    if reference is None:
        return None
    file, name, note = Path(reference), Path(reference).stem, Path(reference).name
    if reference == SHIPPED:
        file = resources.files("dime").joinpath("data", "dime_official_iqm.csv")
        name, note = "DIME, published", _NOTE
    columns, line = [], 0
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    try:
        for line, cells in enumerate(csv.reader(file.read_text("utf-8-sig").splitlines()), 1):
            columns = columns or cells
            if sorted(columns) not in (sorted(_SUMMARY), sorted(_SCORES)):
                raise ValueError(f"its columns are {', '.join(columns)}")
            if line > 1:
                row = dict(zip(columns, cells, strict=True))
                texts = row.pop("environment"), row.pop("metric")
                seed = {"seed": row.pop("seed", None)}
                grouped[texts].append({n: float(cell) for n, cell in row.items()} | seed)
        require(bool(grouped), f"The reference {file} has no rows below its columns.")
    except (OSError, ValueError, csv.Error) as error:
        raise DimeError(
            f"The reference {file} cannot be read, line {line}: {error}. It must be a CSV file "
            f"with the columns {', '.join(_SUMMARY)}, or {', '.join(_SCORES)}, or the word "
            f'"{SHIPPED}" for the published curves of DIME.'
        ) from error
    make = _of_summary if "iqm" in columns else _of_scores
    return Reference(name, note, {key: make(rows, key[0]) for key, rows in grouped.items()})


def _of_summary(rows: list[dict[str, Any]], _: str) -> Series:
    ordered = sorted(rows, key=lambda row: row["env_step"])
    step, middle, *band = np.array([[row[name] for row in ordered] for name in _SUMMARY[2:]])
    return Series(step, middle[None], np.stack(band), None)


def _of_scores(rows: list[dict[str, Any]], environment: str) -> Series:
    histories: dict[str, History] = defaultdict(dict)
    for row in rows:
        histories[row["seed"]][int(row["env_step"])] = row["score"]
    return series_of(histories.values(), f"the reference for {environment}")
