"""What the runs achieved: curves, final scores, ranks, and aggregates over environments."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dime.algorithms.registry import ALGORITHMS
from dime.envs.registry import suite_of
from dime.errors import DimeError
from dime.figures.curves import MIN_RUNS, Curve, History, Panel, panels_of, score
from dime.figures.runs import Run
from dime.statistics import bootstrap_interval, iqm

OFFICIAL = "official"
"""The choice of modes in which each algorithm is shown in the one that its paper reports."""

_UNITS = {"dm_control": ("DeepMind Control, return / 1000", 1000.0), "myosuite": ("MyoSuite", 1.0)}
_NUM_RESAMPLES = 2000


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
    def final(self) -> "Final":
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


class Final(NamedTuple):
    """A score: the interquartile mean, its 95 % interval, and what it was made of.

    `env_step` and `mode` are None and "" of an aggregate.
    """

    value: float
    interval: tuple[float, float] | None
    num_runs: set[int]
    env_step: int | None = None
    mode: str = ""


class Result(NamedTuple):
    """What there is of one environment; `panel` is None where `problem` says why."""

    environment: str
    panel: Panel | None
    outcomes: list[Outcome]
    problem: str = ""

    def chosen(self, mode: str) -> dict[str, Outcome]:
        """One outcome per algorithm and variant: that of a mode, or of the official one."""
        by_kind: dict[str, list[Outcome]] = defaultdict(list)
        for outcome in self.outcomes:
            by_kind[outcome.curve.kind].append(outcome)
        if mode == OFFICIAL:
            return {kind: official(outcomes) for kind, outcomes in by_kind.items()}
        return {
            kind: outcome
            for kind, outcomes in by_kind.items()
            for outcome in outcomes
            if outcome.curve.mode == mode
        }


def official(outcomes: list[Outcome]) -> Outcome:
    """The outcome in the algorithm's official mode; in its first, where that was not evaluated.

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
        known = {}
        for environment, group in by_environment.items():
            before, result = self._known.get(environment, ([], None))
            same = [id(run) for run in before] == [id(run) for run in group]
            fresh = result is None or not same
            known[environment] = (group, result_of(environment, group) if fresh else result)
        self._known = known
        return [result for _, result in known.values()]


def result_of(environment: str, runs: list[Run]) -> Result:
    """The result of an environment; runs that cannot be averaged make it a problem, no error."""
    try:
        (panel,) = panels_of(runs)
    except DimeError as error:
        return Result(environment, None, [], str(error))
    outcomes = [_outcome(curve, panel.metric, runs) for curve in panel.curves]
    return Result(environment, panel, outcomes)


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


def ranks(finals: dict[str, Final]) -> dict[str, int]:
    """Places by value, the highest first; equal values share one, values that are none have none.

    >>> best, nothing = Final(2.0, None, {1}), Final(float("nan"), None, {1})
    >>> ranks({"a": Final(1.0, None, {1}), "b": best, "c": best, "d": nothing})
    {'a': 3, 'b': 1, 'c': 1}
    """
    values = {kind: final.value for kind, final in finals.items() if np.isfinite(final.value)}
    return {
        kind: 1 + sum(other > value for other in values.values()) for kind, value in values.items()
    }


class Aggregate(NamedTuple):
    """Scores over several environments in one unit, of the kinds that have all of them."""

    title: str
    environments: list[str]
    finals: dict[str, Final]


def aggregates(results: list[Result], mode: str) -> list[Aggregate]:
    """One per group of at least two environments whose scores have the same unit."""
    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        suite = suite_of(result.environment)
        expected = "success_rate" if suite == "myosuite" else "return"
        if suite in _UNITS and result.panel is not None and result.panel.metric == expected:
            groups[suite].append(result)
    made = []
    for suite, group in groups.items():
        title, unit = _UNITS[suite]
        chosen = [result.chosen(mode) for result in group]
        kinds = [kind for kind in chosen[0] if all(kind in one for one in chosen)]
        finals = {kind: pooled([one[kind].finals / unit for one in chosen]) for kind in kinds}
        if len(group) > 1:
            made.append(Aggregate(title, [result.environment for result in group], finals))
    return made


def pooled(tasks: list[np.ndarray]) -> Final:
    """The interquartile mean over runs and tasks; runs are drawn anew within each task.

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
