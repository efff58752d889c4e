"""A search for settings: Optuna proposes, Ray's ASHA stops the trials that lag behind."""

import hashlib
import json
from collections.abc import Mapping
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
from dime.training.records import write_json


def search(
    study: Study, folder: StudyFolder, source: str, progress: bool
) -> tuple[list[Trial], set[str]]:
    """Tries settings until enough have ended; returns the trials, and the names of those scored.

    A trial is named by its values. Values that an earlier call began are tried first, and their
    runs resumed; Optuna receives the scores of those that ended if none was left in the middle.

    Raises:
        DimeError: the space names an option that the algorithm lacks, a value that it refuses, or
            is no space; nothing was started then.
    """
    plan = study.of_search
    assert plan is not None
    space, mode, num_env_steps = _checked(study, plan)
    ledger = _Ledger(study, folder, source, set(space))
    ledger.write_plan()
    if ledger.num_ended < plan.num_samples:
        job = Job(study, folder.storage, partial(trial_of, study), mode)
        finished = ledger.num_ended
        display = SweepProgress(job, (), finished, plan.num_samples, quiet=not progress)
        options = ledger.search_options(plan)
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
        run_trials(job, folder, space, [display, ledger], **options)
    return ledger.trials(), {
        name for name, entry in ledger.tried.items() if entry.get("score") is not None
    }


def _checked(study: Study, plan: Search) -> tuple[dict[str, Any], str, int]:
    """The space as Ray describes it, the mode to maximise, and the env steps of a trial."""
    require(
        len(study.environments) == 1 and len(study.algorithms) + len(study.arms) == 1,
        "A search is on one environment with one algorithm or arm; write a study for each.",
    )
    require(bool(plan.space), "search.space names no option.")
    space = {option: _domain(option, values) for option, values in plan.space.items()}
    # Two proposals of the same values would share a folder.
    require(
        any(isinstance(domain, Float) for domain in space.values()),
        "search.space has no range of real numbers, { low = 0.1, high = 1.0 }: lists of values are "
        "a grid.",
    )
    example = trial_of(study, {option: domain.sample() for option, domain in space.items()})
    check_trials([example])
    training = example.config.training
    mode = plan.mode or find_algorithm(example.config.algorithm).official_mode
    choose("mode in search.mode:", mode, training.evaluation_modes)
    require(
        plan.grace_env_steps <= training.num_env_steps,
        f"search.grace_env_steps is {plan.grace_env_steps}, more than num_env_steps "
        f"{training.num_env_steps}.",
    )
    return space, mode, training.num_env_steps


def _domain(option: str, values: Any) -> Any:
    """Ray's description of an option's values."""
    try:
        if set(values) == {"choices"} and values["choices"]:
            return tune.choice(list(values["choices"]))
        if set(values) <= {"low", "high", "log"} and values["low"] < values["high"]:
            whole = isinstance(values["low"], int) and isinstance(values["high"], int)
            low, high = values["low"], values["high"] + whole  # Ray leaves out the upper end
            if values.get("log"):
                return (tune.lograndint if whole else tune.loguniform)(low, high)
            return (tune.randint if whole else tune.uniform)(low, high)
    except (KeyError, TypeError, ValueError) as error:
        raise DimeError(f"search.space: {option} is {values!r} ({error!r}).") from error
    raise DimeError(
        f"search.space: {option} is {values!r}; it must be {{low, high}}, with log = true on a "
        "logarithmic scale, or {choices = [...]}."
    )


def trial_of(study: Study, values: Mapping[str, Any]) -> Trial:
    """The trial of these values: all of the study's seeds in one program."""
    (arm,) = arms_of(study)
    config = configured(study, study.environments[0], {**arm, **values}, study.seeds)
    digest = hashlib.sha256(json.dumps(dict(values), sort_keys=True).encode()).hexdigest()
    return Trial(f"{config.algorithm}_{digest[:10]}", config)


class _Ledger(tune.Callback):
    """search.json, which outlives Ray: what was tried, and how it ended.

    Attributes:
        tried: by trial its `values`, and once it has ended its `score` (None if it failed).
    """

    def __init__(self, study: Study, folder: StudyFolder, source: str, options: set[str]):
        self._study, self._folder, self._source = study, folder, source
        self._file = folder.path / "search.json"
        self.tried: dict[str, dict[str, Any]] = self._read() if self._file.exists() else {}
        for name, entry in self.tried.items():
            require(
                set(entry["values"]) == options,
                f"{folder.path} holds a search over {', '.join(entry['values'])} ({name}). Give "
                "the study another name, or choose another place (--storage).",
            )

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            tried = dict(json.loads(self._file.read_text("utf-8-sig")))
            for entry in tried.values():
                dict.keys(entry["values"])
                float(entry.get("score") or 0.0)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DimeError(
                f"{self._file} is damaged ({error!r}); remove it to restart the search."
            ) from error
        return tried

    @property
    def num_ended(self) -> int:
        """How many trials have ended or failed."""
        return sum("score" in entry for entry in self.tried.values())

    def trials(self) -> list[Trial]:
        """What was tried."""
        return [trial_of(self._study, entry["values"]) for entry in self.tried.values()]

    def write_plan(self) -> None:
        """Writes study.json."""
        self._folder.plan(self._study, self._source, self.trials())

    def search_options(self, plan: Search) -> dict[str, Any]:
        """Of `tune.TuneConfig`: what to try next."""
        # Optuna learns from scores in one go, or from values to try, not from both at once: what
        # has begun is tried first, and scores are passed on if nothing waits.
        begun = [entry["values"] for entry in self.tried.values() if "score" not in entry]
        known = [entry for entry in self.tried.values() if entry.get("score") is not None]
        scores = None if begun else [entry["score"] for entry in known] or None
        points = begun or [entry["values"] for entry in known] or None
        return {
            "search_alg": OptunaSearch(
                metric="score", mode="max", points_to_evaluate=points, evaluated_rewards=scores
            ),
            "num_samples": plan.num_samples - self.num_ended,
        }

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Notes the values."""
        self.tried.setdefault(trial_of(self._study, trial.config).name, {"values": trial.config})
        self._write()
        self.write_plan()
        self._folder.push_small()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Notes the score, of the whole trial or of where ASHA stopped it."""
        if (score := trial.last_result.get("score")) is not None:
            self._end(trial, score)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Notes that there is no score."""
        self._end(trial, None)

    def _end(self, trial: Any, score: float | None) -> None:
        self.tried[trial_of(self._study, trial.config).name]["score"] = score
        self._write()

    def _write(self) -> None:
        self._folder.path.mkdir(parents=True, exist_ok=True)
        write_json(self._file, self.tried)
        self._folder.push_small()
