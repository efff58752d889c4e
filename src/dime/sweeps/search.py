"""A search for settings: Optuna proposes, Ray's ASHA stops the trials that lag behind."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.sample import Float

from dime.algorithms.registry import find_algorithm
from dime.errors import DimeError, choose, require
from dime.sweeps.folder import StudyFolder
from dime.sweeps.study import Search, Study, Trial, arms_of, check_trials, configured
from dime.sweeps.tuner import Job, SweepProgress, run_trials
from dime.training.config import RunConfig
from dime.training.records import write_json


def search(
    study: Study, folder: StudyFolder, source: str, progress: bool
) -> tuple[list[Trial], set[str]]:
    """Tries values until enough trials have ended; returns the trials, and the names of the scored.

    A trial is named by its values. Those that an earlier call began are tried first, and their runs
    resumed; if there are none, Optuna receives the scores of the earlier trials.

    Raises:
        DimeError: the space names an option that the algorithm lacks, a value that it refuses, or
            is no space; no trial was started then.
    """
    plan = study.of_search
    assert plan is not None
    space = {option: _domain(option, values) for option, values in plan.space.items()}
    config = _checked(study, plan, space)
    mode = plan.mode or find_algorithm(config.algorithm).official_mode
    choose("mode in search.mode:", mode, config.training.evaluation_modes)
    ledger = _Ledger(study, folder, source, set(space))
    ledger.write()
    ended = sum("score" in entry for entry in ledger.tried.values())
    if ended < plan.num_samples:
        job = Job(study, folder.storage, partial(trial_of, study), mode)
        counts = ended, plan.num_samples
        display = SweepProgress(job, folder, counts, quiet=not progress, note=ledger.note)
        options: dict[str, Any] = {"num_samples": plan.num_samples - ended}
        if plan.grace_env_steps:
            options["scheduler"] = ASHAScheduler(
                time_attr="env_step",
                metric="score",
                mode="max",
                max_t=config.training.num_env_steps,
                grace_period=plan.grace_env_steps,
                reduction_factor=plan.reduction_factor,
                stop_last_trials=False,  # they end by themselves, and save
            )
        run_trials(display, space, search_alg=ledger.next_values(), **options)
    return ledger.trials(), set(ledger.scores())


def _checked(study: Study, plan: Search, space: dict[str, Any]) -> RunConfig:
    """The config of a trial of the search, if its trials can start."""
    require(
        len(study.environments) == 1 and len(study.algorithms) + len(study.arms) == 1,
        "A search has one environment and one algorithm or arm; write a study for each.",
    )
    # Two proposals of the same values would share a folder.
    require(
        any(isinstance(domain, Float) for domain in space.values()),
        "search.space needs a range of real numbers, { low = 0.1, high = 1.0 }; lists of values "
        "alone are a grid.",
    )
    example = trial_of(study, {option: domain.sample() for option, domain in space.items()})
    check_trials([example])
    num_env_steps = example.config.training.num_env_steps
    require(
        plan.grace_env_steps <= num_env_steps,
        f"search.grace_env_steps is {plan.grace_env_steps}, more than num_env_steps "
        f"{num_env_steps}.",
    )
    return example.config


def _domain(option: str, values: Any) -> Any:
    """Ray's description of an option's values."""
    with suppress(KeyError, TypeError, ValueError):
        if set(values) == {"choices"} and values["choices"]:
            return tune.choice(list(values["choices"]))
        if set(values) <= {"low", "high", "log"} and values["low"] < values["high"]:
            whole = isinstance(values["low"], int) and isinstance(values["high"], int)
            low, high = values["low"], values["high"] + whole  # Ray excludes the upper end
            if values.get("log"):
                return (tune.lograndint if whole else tune.loguniform)(low, high)
            return (tune.randint if whole else tune.uniform)(low, high)
    raise DimeError(
        f"search.space: {option} is {values!r}; it must be {{low, high}}, with log = true on a "
        "logarithmic scale (low above 0), or {choices = [...]}."
    )


def trial_of(study: Study, values: Mapping[str, Any]) -> Trial:
    """The trial of these values: all of the study's seeds in one program."""
    (arm,) = arms_of(study)
    config = configured(study, study.environments[0], {**arm, **values}, study.seeds)
    digest = hashlib.sha256(json.dumps(dict(values), sort_keys=True).encode()).hexdigest()
    return Trial(f"{config.algorithm}_{digest[:10]}", config)


class _Ledger:
    """search.json, which outlives Ray: what was tried, and how it ended.

    Attributes:
        tried: by trial its `values`, and once it has ended its `score` (None if it failed).
    """

    def __init__(self, study: Study, folder: StudyFolder, source: str, options: set[str]):
        self._study, self._folder, self._source = study, folder, source
        self._file = folder.path / "search.json"
        self.tried: dict[str, dict[str, Any]] = {}
        try:
            if self._file.exists():
                self.tried = dict(json.loads(self._file.read_text("utf-8-sig")))
            spaces = [dict.keys(entry["values"]) for entry in self.tried.values()]
            sum(map(float, self.scores().values()))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DimeError(f"{self._file} is damaged ({error!r}); remove it.") from error
        for space in spaces:
            require(
                space == options,
                f"{folder.path} holds a search over {', '.join(space)}. Give the study another "
                "name, or choose another place (--storage).",
            )

    def scores(self) -> dict[str, float]:
        """Of the trials that have one."""
        tried = self.tried.items()
        return {name: entry["score"] for name, entry in tried if entry.get("score") is not None}

    def trials(self) -> list[Trial]:
        """What was tried."""
        return [trial_of(self._study, entry["values"]) for entry in self.tried.values()]

    def next_values(self) -> OptunaSearch:
        """What to try next."""
        # Optuna takes values to try, or values with their scores, not both: what has begun is tried
        # first, and scores are passed on if nothing waits.
        begun = [entry["values"] for entry in self.tried.values() if "score" not in entry]
        scores = {} if begun else self.scores()
        return OptunaSearch(
            metric="score",
            mode="max",
            points_to_evaluate=begun or [self.tried[name]["values"] for name in scores] or None,
            evaluated_rewards=list(scores.values()) or None,
        )

    def note(self, name: str, values: dict[str, Any], **score: float | None) -> None:
        """Notes a trial that starts, or the `score` of one that has ended."""
        self.tried.setdefault(name, {"values": values}).update(score)
        self.write()

    def write(self) -> None:
        """Writes search.json and study.json."""
        self._folder.plan(self._study, self._source, self.trials())
        write_json(self._file, self.tried)
        self._folder.push_small()
