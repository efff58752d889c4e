"""From run directories to learning curves: runs of a kind pooled, their scores summarised."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dime.envs.registry import suite_of
from dime.errors import DimeError
from dime.experiments.statistics import bootstrap_interval, iqm
from dime.training.records import read_records
from dime.training.run_directory import RunDirectory

MIN_RUNS = 3
"""Fewer runs than this have no interval worth drawing."""

History = dict[int, float]
"""The score of one run by env step."""

_CONFIG_KEYS = {"env", "algorithm", "training"}
_RECORD_KEYS = {"env_step", "seed", "mode", "returns", "success_last"}
# Settings that runs of a kind may differ in: they do not change what is learnt up to an env step.
_OPERATIONAL = {"format_version", "preset"} | {
    f"training.{name}"
    for name in (
        "seeds",
        "num_env_steps",
        "evaluate_every",
        "num_evaluation_episodes",
        "evaluation_modes",
        "log_every",
        "checkpoint_every",
        "tensorboard",
        "wandb_project",
    )
}


class Run(NamedTuple):
    """A run directory as far as figures need it."""

    folder: Path
    config: dict[str, Any]
    records: list[dict[str, Any]]

    @property
    def environment(self) -> str:
        """The environment's id."""
        return self.config["env"]


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
    """The runs of one algorithm on one environment under one action mode.

    Attributes:
        num_episodes: the numbers of episodes that its evaluations have; mostly one number.
        num_silent: seeds of its runs without a single evaluation.
        differences: settings that its pooled runs do not share.
    """

    algorithm: str
    mode: str
    series: Series
    num_episodes: frozenset[int]
    num_silent: int
    differences: tuple[str, ...]

    @property
    def label(self) -> str:
        """As in the legend."""
        return f"{self.algorithm}, {self.mode.replace('_', ' ')}"


class Panel(NamedTuple):
    """The curves of one environment; `metric` is "return" or "success_rate"."""

    environment: str
    metric: str
    curves: list[Curve]


def read_runs(run_dirs: str | Path | Iterable[str | Path]) -> list[Run]:
    """Reads run directories, each once.

    Raises:
        DimeError: none is given, one is no run or damaged, or one has no evaluations yet.
    """
    paths = [run_dirs] if isinstance(run_dirs, str | Path) else list(run_dirs)
    if not paths:
        raise DimeError("There is nothing to draw: name at least one run directory.")
    by_place = {Path(path).resolve(): Path(path) for path in paths}
    return [_read_run(path) for path in by_place.values()]


def _read_run(path: Path) -> Run:
    directory = RunDirectory.open(path)
    file = directory.evaluations_file
    config = directory.config()
    if missing := _CONFIG_KEYS - set(config):
        raise DimeError(f"{directory.config_file} lacks {', '.join(sorted(missing))}: damaged?")
    try:
        records = list(read_records(file))
    except ValueError as error:
        raise DimeError(f"{file} is damaged: a line is not JSON ({error}).") from error
    if not records:
        raise DimeError(
            f"{path} has no evaluations yet. The first is written at env step 0, a moment after "
            "the run has started: try again then, or leave this run out."
        )
    for number, record in enumerate(records, 1):
        missing = _RECORD_KEYS - set(record)
        if missing or not record["returns"]:
            lacks = ", ".join(sorted(missing)) or "episodes"
            raise DimeError(f"{file}, line {number}, is not an evaluation: it lacks {lacks}.")
    return Run(path, config, records)


def panels_of(runs: list[Run]) -> list[Panel]:
    """The learning curves of these runs, one panel per environment in the order of the runs.

    Runs of the same environment and algorithm are pooled, whatever folder they are in.

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
    kinds = {(run.config["algorithm"], record["mode"]) for run in runs for record in run.records}
    # stochastic before deterministic: the paper's mode first
    ordered = sorted(kinds, key=lambda kind: (kind[0], kind[1] != "stochastic", kind[1]))
    curves = [
        _curve([run for run in runs if run.config["algorithm"] == algorithm], mode, metric)
        for algorithm, mode in ordered
    ]
    return Panel(environment, metric, curves)


def _curve(runs: list[Run], mode: str, metric: str) -> Curve:
    histories: dict[tuple[Path, int], History] = defaultdict(dict)
    num_episodes: set[int] = set()
    for run in runs:
        for record in run.records:
            if record["mode"] == mode:
                history = histories[run.folder, record["seed"]]
                history[record["env_step"]] = _score(record, metric)
                num_episodes.add(len(record["returns"]))
    algorithm = runs[0].config["algorithm"]
    pooled = [run for run in runs if any(folder == run.folder for folder, _ in histories)]
    expected = sum(len(run.config["training"]["seeds"]) for run in pooled)
    return Curve(
        algorithm,
        mode,
        series_of(list(histories.values()), f"{algorithm} ({mode}) on {runs[0].environment}"),
        frozenset(num_episodes),
        expected - len(histories),
        _differences([run.config for run in pooled]),
    )


def _score(record: dict[str, Any], metric: str) -> float:
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
    flat = [_flat(config) for config in configs]
    names = sorted(set().union(*flat) - _OPERATIONAL)
    values = {name: {json.dumps(settings.get(name)) for settings in flat} for name in names}
    return tuple(name.removeprefix("settings.") for name in names if len(values[name]) > 1)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else None
        flat.update(inner if inner is not None else {f"{prefix}{name}": value})
    return flat
