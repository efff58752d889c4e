"""From runs to learning curves: runs of a kind pooled, their scores summarised; references."""

import csv
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dime.algorithms.registry import ALGORITHMS
from dime.envs.registry import suite_of
from dime.errors import DimeError
from dime.figures.runs import OPERATIONAL, Run, by_environment, flatten
from dime.statistics import bootstrap_interval, iqm

MIN_RUNS = 3
"""Fewer runs than this have no interval worth drawing."""

SHIPPED = "shipped"
_SHIPPED_NAME = "DIME, published"
_SHIPPED_NOTE = (
    "the authors' published curves, 10 seeds, stochastic actions, 5 episodes per evaluation"
)
_SUMMARY_COLUMNS = {"environment", "metric", "env_step", "iqm", "ci_low", "ci_high"}
_SCORE_COLUMNS = {"environment", "metric", "seed", "env_step", "score"}
_TEXT_COLUMNS = {"environment", "metric", "seed"}

History = dict[int, float]
"""The score of one run by env step."""


@dataclass(frozen=True)
class Series:
    """What is drawn of some runs.

    Attributes:
        env_step: (points,).
        lines: (1, points), the IQM over runs; with fewer than three (runs, points), every run.
        band: (2, points), ends of the 95 % interval; None with fewer than three runs.
        num_runs: how many runs it is made of; None if that is not known.
        num_left_out: env steps at which some of the runs were evaluated, but not all.
    """

    env_step: np.ndarray
    lines: np.ndarray
    band: np.ndarray | None
    num_runs: int | None
    num_left_out: int = 0

    def until(self, last: int) -> "Series":
        """Up to the first point at or beyond `last`, so that the line leaves the panel."""
        count = int(np.searchsorted(self.env_step, last)) + 1
        band = None if self.band is None else self.band[:, :count]
        return Series(self.env_step[:count], self.lines[:, :count], band, self.num_runs)


@dataclass(frozen=True)
class Curve:
    """The runs of one algorithm and variant on one environment under one action mode.

    Attributes:
        histories: the scores of each run, also those that the series leaves out.
        num_episodes: the numbers of episodes that its evaluations have; mostly one number.
        num_silent: seeds of its runs without a single evaluation.
        num_repeated: how many of its runs have a seed that another one has too.
        differences: settings that its pooled runs do not share.
    """

    algorithm: str
    variant: str
    mode: str
    series: Series
    histories: list[History]
    num_episodes: frozenset[int]
    num_silent: int
    num_repeated: int
    differences: tuple[str, ...]

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
    """The curves of one environment; `metric` is "return" or "success_rate"."""

    environment: str
    metric: str
    curves: list[Curve]


def official_mode(algorithm: str, modes: list[str]) -> str:
    """The mode of these that the algorithm's paper reports; the first if that is not among them.

    An algorithm from elsewhere is not imported to be asked: pictures run no code of their runs.
    """
    known = ALGORITHMS.get(algorithm)
    return known.official_mode if known and known.official_mode in modes else modes[0]


def panels_of(runs: list[Run]) -> list[Panel]:
    """The learning curves of these runs, one panel per environment in the order of the runs.

    Runs of the same environment, algorithm and variant are pooled, whatever folder they are in.

    Raises:
        DimeError: runs to be pooled share no evaluated env step.
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
    place = {kind: number for number, (kind, _) in enumerate(by_kind)}

    def order(key: tuple[str, str]) -> tuple[str, int, bool, str]:
        """Stochastic before deterministic, as in the paper; variants in the order of the runs."""
        kind, mode = key
        return by_kind[key][0].config["algorithm"], place[kind], mode != "stochastic", mode

    ordered = sorted(by_kind, key=order)
    return Panel(environment, metric, [_curve(by_kind[key], key[1], metric) for key in ordered])


def _curve(runs: list[Run], mode: str, metric: str) -> Curve:
    histories = histories_of(runs, mode, metric)
    records = [record for run in runs for record in run.records if record["mode"] == mode]
    first = runs[0]
    expected = sum(len(run.config["training"]["seeds"]) for run in runs)
    return Curve(
        first.config["algorithm"],
        first.variant,
        mode,
        series_of(histories.values(), f"{first.kind} ({mode}) on {first.environment}"),
        list(histories.values()),
        frozenset(len(record["returns"]) for record in records),
        expected - len(histories),
        len(histories) - len({seed for _, seed in histories}),
        _differences([run.config for run in runs]),
    )


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

    Args:
        histories: one per run.
        name: of the runs, for the error.

    Raises:
        DimeError: they share no env step.

    >>> series_of([{0: 1.0, 500: 2.0}, {0: 3.0}], "two runs").lines
    array([[1.],
           [3.]])
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


def _differences(configs: list[dict[str, Any]]) -> tuple[str, ...]:
    """Names of the settings that change the learning and are not the same in all configs."""
    flat = [flatten(config) for config in configs]
    names = sorted(set().union(*flat) - OPERATIONAL)
    values = {name: {json.dumps(settings.get(name)) for settings in flat} for name in names}
    return tuple(name.removeprefix("settings.") for name in names if len(values[name]) > 1)


class Reference(NamedTuple):
    """Curves to draw beside one's own, by environment and metric.

    Attributes:
        name: in the legend.
        note: their origin.
        series: by environment and metric ("return" or "success_rate").
    """

    name: str
    note: str
    series: dict[tuple[str, str], Series]

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

    >>> read_reference("shipped").find("Ant-v3-compatible", "return").env_step.max() / 1e6
    np.float64(0.984)
    """
    if reference is None:
        return None
    if reference == SHIPPED:
        file = resources.files("dime").joinpath("data", "dime_official_iqm.csv")
        return Reference(_SHIPPED_NAME, _SHIPPED_NOTE, _read_series(file))
    path = Path(reference)
    return Reference(path.stem, path.name, _read_series(path))


Row = dict[str, Any]
"""A line of a reference file: texts and numbers by column."""


def _read_series(file: Traversable) -> dict[tuple[str, str], Series]:
    grouped: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in _read_rows(file):
        grouped[row["environment"], row["metric"]].append(row)
    return {
        key: _of_summary(rows) if "iqm" in rows[0] else _of_scores(rows)
        for key, rows in grouped.items()
    }


def _read_rows(file: Traversable) -> list[Row]:
    try:
        reader = csv.reader(file.read_text(encoding="utf-8-sig").splitlines())
        columns = next(reader, [])
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DimeError(
            f"The reference {file} cannot be read ({error}). Give a CSV file, or the word "
            f'"{SHIPPED}" for the published curves of DIME.'
        ) from error
    if set(columns) not in (_SUMMARY_COLUMNS, _SCORE_COLUMNS):
        raise DimeError(
            f"The reference {file} has the columns {', '.join(columns) or '(none)'}. It must have "
            "environment, metric, env_step, iqm, ci_low, ci_high, or environment, metric, seed, "
            "env_step, score."
        )
    if not lines:
        raise DimeError(f"The reference {file} has no rows below its columns.")
    rows = []
    for number, cells in lines:
        if len(cells) != len(columns):
            raise DimeError(
                f"The reference {file} has {len(cells)} cells in line {number}, and "
                f"{len(columns)} columns."
            )
        try:
            pairs = zip(columns, cells, strict=True)
            rows.append({c: cell if c in _TEXT_COLUMNS else float(cell) for c, cell in pairs})
        except ValueError as error:
            raise DimeError(f"The reference {file}, line {number}: {error}.") from error
    return rows


def _of_summary(rows: list[Row]) -> Series:
    by_step = {row["env_step"]: row for row in rows}
    ordered = [by_step[step] for step in sorted(by_step)]
    step, iqm, low, high = (
        np.array([row[name] for row in ordered])
        for name in ("env_step", "iqm", "ci_low", "ci_high")
    )
    return Series(step, iqm[None], np.stack([low, high]), None)


def _of_scores(rows: list[Row]) -> Series:
    histories: dict[str, History] = defaultdict(dict)
    for row in rows:
        histories[row["seed"]][int(row["env_step"])] = row["score"]
    return series_of(histories.values(), f"the reference for {rows[0]['environment']}")
