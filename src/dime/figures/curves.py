"""From run directories to learning curves: runs of a kind pooled, their scores summarised."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dime.envs.registry import suite_of
from dime.errors import DimeError
from dime.figures.runs import OPERATIONAL, Run, flatten
from dime.statistics import bootstrap_interval, iqm

MIN_RUNS = 3
"""Fewer runs than this have no interval worth drawing."""

History = dict[int, float]
"""The score of one run by env step."""


@dataclass(frozen=True)
class Series:
    """What is drawn of some runs.

    Attributes:
        env_step: (points,).
        lines: (1, points), the IQM over runs; with fewer than three (runs, points), every run.
        band: (2, points), ends of the 95 % interval; None with fewer than three runs.
        num_runs: how many runs it is made of; None where that is not known.
        num_left_out: env steps at which some of the runs were evaluated, but not all.
    """

    env_step: np.ndarray
    lines: np.ndarray
    band: np.ndarray | None
    num_runs: int | None
    num_left_out: int = 0


@dataclass(frozen=True)
class Curve:
    """The runs of one algorithm and variant on one environment under one action mode.

    Attributes:
        num_episodes: the numbers of episodes that its evaluations have; mostly one number.
        num_silent: seeds of its runs without a single evaluation.
        num_repeated: how many of its runs have a seed that another one has too.
        differences: settings that its pooled runs do not share.
    """

    algorithm: str
    variant: str
    mode: str
    series: Series
    num_episodes: frozenset[int]
    num_silent: int
    num_repeated: int
    differences: tuple[str, ...]

    @property
    def label(self) -> str:
        """As in the legend."""
        return f"{self.kind}, {self.mode.replace('_', ' ')}"

    @property
    def kind(self) -> str:
        """Algorithm and variant."""
        return f"{self.algorithm} {self.variant}".strip()


class Panel(NamedTuple):
    """The curves of one environment; `metric` is "return" or "success_rate"."""

    environment: str
    metric: str
    curves: list[Curve]


def panels_of(runs: list[Run]) -> list[Panel]:
    """The learning curves of these runs, one panel per environment in the order of the runs.

    Runs of the same environment, algorithm and variant are pooled, whatever folder they are in.

    Raises:
        DimeError: runs to be pooled share no evaluated env step.
    """
    by_environment: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_environment[run.environment].append(run)
    return [_panel(environment, by_environment[environment]) for environment in by_environment]


def _panel(environment: str, runs: list[Run]) -> Panel:
    records = [record for run in runs for record in run.records]
    reported = all(None not in (record["success_last"] or [None]) for record in records)
    metric = "success_rate" if reported and suite_of(environment) == "myosuite" else "return"
    by_kind: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        modes = dict.fromkeys(record["mode"] for record in run.records)
        for mode in modes:
            by_kind[run.kind, mode].append(run)
    # stochastic before deterministic: the paper's mode first; variants in the order of the runs
    order = {kind: place for place, (kind, _) in enumerate(by_kind)}
    ordered = sorted(
        by_kind,
        key=lambda key: (
            by_kind[key][0].config["algorithm"],
            order[key[0]],
            key[1] != "stochastic",
            key[1],
        ),
    )
    curves = [_curve(by_kind[kind, mode], mode, metric) for kind, mode in ordered]
    return Panel(environment, metric, curves)


def _curve(runs: list[Run], mode: str, metric: str) -> Curve:
    histories: dict[tuple[Path, int], History] = defaultdict(dict)
    num_episodes: set[int] = set()
    for run in runs:
        for record in run.records:
            if record["mode"] == mode:
                history = histories[run.folder, record["seed"]]
                history[record["env_step"]] = score(record, metric)
                num_episodes.add(len(record["returns"]))
    first = runs[0]
    pooled = [run for run in runs if any(folder == run.folder for folder, _ in histories)]
    expected = sum(len(run.config["training"]["seeds"]) for run in pooled)
    return Curve(
        first.config["algorithm"],
        first.variant,
        mode,
        series_of(list(histories.values()), f"{first.kind} ({mode}) on {first.environment}"),
        frozenset(num_episodes),
        expected - len(histories),
        len(histories) - len({seed for _, seed in histories}),
        _differences([run.config for run in pooled]),
    )


def score(record: dict[str, Any], metric: str) -> float:
    """The mean over an evaluation's episodes; NaN where an episode has no finite return."""
    episodes = record["returns"] if metric == "return" else record["success_last"]
    return float(np.mean(np.array(episodes, np.float64)))


def series_of(histories: list[History], name: str) -> Series:
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
    shared = sorted(set.intersection(*(set(history) for history in histories)))
    if not shared:
        raise DimeError(
            f"The runs of {name} share no evaluated env step, so they cannot be averaged. Draw "
            "them in separate figures, or evaluate them at the same intervals (evaluate_every)."
        )
    scores = np.array([[history[step] for step in shared] for history in histories])
    lines, band = scores, None
    if len(histories) >= MIN_RUNS:
        by_point = scores.T[:, :, None]  # (points, runs, one task)
        lines, band = iqm(by_point)[None], np.stack(bootstrap_interval(by_point))
    num_steps = len(set.union(*(set(history) for history in histories)))
    return Series(np.array(shared), lines, band, len(histories), num_steps - len(shared))


def _differences(configs: list[dict[str, Any]]) -> tuple[str, ...]:
    """Names of the settings that change the learning and are not the same in all configs."""
    flat = [flatten(config) for config in configs]
    names = sorted(set().union(*flat) - OPERATIONAL)
    values = {name: {json.dumps(settings.get(name)) for settings in flat} for name in names}
    return tuple(name.removeprefix("settings.") for name in names if len(values[name]) > 1)
