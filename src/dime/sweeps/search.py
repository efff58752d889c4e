"""A search for settings: Optuna proposes, Ray's ASHA stops the trials that lag behind."""

import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.sample import Float

from dime.algorithms.registry import find_algorithm
from dime.errors import DimeError, choose, require
from dime.sweeps.mirror import Mirror
from dime.sweeps.progress import SweepProgress
from dime.sweeps.study import Search, Study, Trial, arms_of, check_trials, configured
from dime.sweeps.study_files import read_study
from dime.sweeps.study_folder import StudyFolder
from dime.sweeps.sweep import run_tuner
from dime.sweeps.worker import Report, told_to_workers, train_in_worker
from dime.training.listeners import Record
from dime.training.records import read_records, write_json

_FILE = "search.json"

Tried = dict[str, dict[str, Any]]
"""By trial: `values`, and once it has ended `score` (None where it failed)."""


def search(
    study: Study, folder: StudyFolder, source: str, mirror: Mirror, progress: bool
) -> tuple[list[Trial], tuple[str, ...]]:
    """Tries settings until enough have ended; returns the trials, and those stopped early.

    A trial is named by its values. Values that an earlier call began are tried first, and their
    runs resumed; Optuna hears the scores of those that ended where none was left in the middle.

    Raises:
        DimeError: the space names an option that the algorithm lacks, a value that it refuses, or
            is no space; nothing was started then.
    """
    plan = study.of_search
    assert plan is not None
    require(
        len(study.environments) == 1 and len(study.algorithms) + len(study.arms) == 1,
        "A search is on one environment with one algorithm or arm; write a study for each.",
    )
    require(bool(plan.space), "search.space names no option.")
    space = {option: _domain(option, given) for option, given in plan.space.items()}
    # Two proposals of the same values would share a folder.
    require(
        any(isinstance(domain, Float) for domain in space.values()),
        "search.space has no range of real numbers, { low = 0.1, high = 1.0 }: lists of values are "
        "a grid.",
    )
    example = trial_of(study, {option: domain.sample() for option, domain in space.items()})
    check_trials([example])
    algorithm = find_algorithm(example.config.algorithm)
    mode = plan.mode or algorithm.official_mode
    choose("mode in search.mode:", mode, example.config.training.evaluation_modes)

    num_env_steps = example.config.training.num_env_steps
    require(
        plan.grace_env_steps <= num_env_steps,
        f"search.grace_env_steps is {plan.grace_env_steps}, more than num_env_steps "
        f"{num_env_steps}.",
    )
    tried = _read(folder)
    for name, entry in tried.items():
        require(
            set(entry["values"]) == set(space),
            f"{folder.path} holds a search over {', '.join(entry['values'])} ({name}). Give the "
            "study another name, or choose another place (--storage).",
        )
    folder.plan(study, source, [trial_of(study, entry["values"]) for entry in tried.values()])
    ended = {name: entry for name, entry in tried.items() if "score" in entry}
    if len(ended) < plan.num_samples:
        keeper = _SearchProgress(study, source, folder, mirror, tried, quiet=not progress)
        options = _tune_options(plan, tried, num_env_steps)
        # As text: Optuna would take the tables in it for parts of the space.
        table = json.dumps(dataclasses.asdict(study))
        told = {"values": space, "table": table, "mode": mode}
        told |= told_to_workers(study, folder, mirror)
        run_tuner(study, train_sample, told, folder, mirror, keeper, options)
    tried = _read(folder)
    trials = [trial_of(study, entry["values"]) for entry in tried.values()]
    stopped = [trial for trial in trials if tried[trial.name].get("score") is not None]
    return trials, tuple(trial.name for trial in stopped if not folder.is_finished(trial))


def trial_of(study: Study, values: Mapping[str, Any]) -> Trial:
    """The trial of these values: all of the study's seeds in one program."""
    (arm,) = arms_of(study)
    config = configured(study, study.environments[0], {**arm, **values}, study.seeds)
    digest = hashlib.sha256(json.dumps(dict(values), sort_keys=True).encode()).hexdigest()
    return Trial(f"{config.algorithm}_{digest[:10]}", config)


def train_sample(told: Mapping[str, Any]) -> None:
    """Runs in a worker of Ray: the trial of the values that Optuna proposed."""
    study = read_study(json.loads(told["table"]))
    trial = trial_of(study, told["values"])
    seeds_of_step: dict[int, list[float]] = defaultdict(list)

    def scored(record: Record) -> Report | None:
        if record.get("mode") != told["mode"]:
            return None
        scores = seeds_of_step[record["env_step"]]
        scores.append(sum(record["returns"]) / len(record["returns"]))
        if len(scores) < len(study.seeds):
            return None
        return {"env_step": record["env_step"], "score": sum(scores) / len(scores)}

    finished = StudyFolder(Path(told["study"])).is_finished(trial)
    train_in_worker(told, trial, scored)
    if finished:  # before, but its score was not noted: there were no records to report
        records = read_records(Path(told["study"]) / trial.name / "evaluations.jsonl")
        reports = [report for record in records if (report := scored(record)) is not None]
        tune.report(reports[-1])


def _domain(option: str, given: Any) -> Any:
    """Ray's description of an option's values."""
    try:
        if set(given) == {"choices"} and given["choices"]:
            return tune.choice(list(given["choices"]))
        if set(given) <= {"low", "high", "log"} and given["low"] < given["high"]:
            whole = isinstance(given["low"], int) and isinstance(given["high"], int)
            low, high = given["low"], given["high"] + whole  # Ray leaves out the upper end
            if given.get("log"):
                return (tune.lograndint if whole else tune.loguniform)(low, high)
            return (tune.randint if whole else tune.uniform)(low, high)
    except (KeyError, TypeError, ValueError) as error:
        raise DimeError(f"search.space: {option} is {given!r} ({error!r}).") from error
    raise DimeError(
        f"search.space: {option} is {given!r}; it must be {{low, high}}, with log = true on a "
        "logarithmic scale, or {choices = [...]}."
    )


def _tune_options(plan: Search, tried: Tried, num_env_steps: int) -> dict[str, Any]:
    known = [entry for entry in tried.values() if entry.get("score") is not None]
    begun = [entry for entry in tried.values() if "score" not in entry]
    failed = len(tried) - len(known) - len(begun)
    # Optuna learns from scores in one go, or from values to try, not from both at once: what has
    # begun is tried first, and scores are told where nothing waits.
    points = [{"values": entry["values"]} for entry in (begun or known)]
    scores = None if begun else [entry["score"] for entry in known] or None
    flat = [_flat(point) for point in points]
    options: dict[str, Any] = {
        "search_alg": OptunaSearch(
            metric="score", mode="max", points_to_evaluate=flat or None, evaluated_rewards=scores
        ),
        "num_samples": plan.num_samples - len(known) - failed,
    }
    if plan.grace_env_steps:
        options["scheduler"] = ASHAScheduler(
            time_attr="env_step",
            metric="score",
            mode="max",
            max_t=num_env_steps,
            grace_period=plan.grace_env_steps,
            reduction_factor=plan.reduction_factor,
            stop_last_trials=False,  # they end by themselves, and save
        )
    return options


def _flat(point: Mapping[str, Any]) -> dict[str, Any]:
    """As Optuna knows the values that Ray hands to it."""
    return {f"values/{option}": value for option, value in point["values"].items()}


def _read(folder: StudyFolder) -> Tried:
    file = folder.path / _FILE
    if not file.exists():
        return {}
    try:
        tried = {
            str(name): dict(entry)
            for name, entry in json.loads(file.read_text("utf-8-sig")).items()
        }
        whole = all(
            isinstance(entry["values"], dict)
            and isinstance(entry.get("score"), int | float | type(None))
            for entry in tried.values()
        )
        require(whole, f"{file} is damaged; remove it to search anew.")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DimeError(f"{file} is damaged ({error!r}); remove it to search anew.") from error
    return tried


class _SearchProgress(SweepProgress):
    """Also keeps search.json."""

    def __init__(  # noqa: PLR0913  what it keeps in step
        self,
        study: Study,
        source: str,
        folder: StudyFolder,
        mirror: Mirror,
        tried: Tried,
        quiet: bool,
    ):
        super().__init__([], sum("score" in entry for entry in tried.values()), quiet)
        self._study, self._source, self._folder = study, source, folder
        self._mirror, self._tried = mirror, tried

    def __getstate__(self) -> dict[str, Any]:
        """Without the screen."""
        return super().__getstate__() | {"_study": self._study, "_tried": self._tried}

    def name_of(self, trial: Any) -> str:
        """By its values."""
        return self._trial(trial).name

    def planned_steps(self, trial: Any) -> int:
        """Of every trial of the search."""
        return self._trial(trial).config.training.num_env_steps

    def _trial(self, trial: Any) -> Trial:
        return trial_of(self._study, trial.config["values"])

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Notes the values."""
        self._tried.setdefault(self.name_of(trial), {"values": trial.config["values"]})
        self._write()
        trials_ = [trial_of(self._study, entry["values"]) for entry in self._tried.values()]
        self._folder.plan(self._study, self._source, trials_)
        self._mirror.push_small(self._folder.path)
        super().on_trial_start(iteration, trials, trial, **info)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Notes the score, of the whole trial or of where ASHA stopped it."""
        if (score := trial.last_result.get("score")) is not None:
            self._tried[self.name_of(trial)]["score"] = score
        self._write()
        super().on_trial_complete(iteration, trials, trial, **info)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Notes that there is no score."""
        self._tried[self.name_of(trial)]["score"] = None
        self._write()
        super().on_trial_error(iteration, trials, trial, **info)

    def _write(self) -> None:
        self._folder.path.mkdir(parents=True, exist_ok=True)
        write_json(self._folder.path / _FILE, self._tried)
        self._mirror.push_small(self._folder.path)
