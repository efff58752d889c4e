"""A study: which runs an experiment is made of."""

import itertools
import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from dime.envs.registry import make
from dime.errors import choose, require, require_at_least
from dime.figures.runs import LONGEST_NAME, OPERATIONAL, flatten
from dime.training.config import RunConfig, replace_nested
from dime.training.make_config import make_config
from dime.training.return_support import require_support

_FIELDS = {
    "seeds": "the field seeds",
    "algorithm": "the field algorithms or arms",
    "env": "the field environments",
}


@dataclass(frozen=True)
class Search:
    """A search for settings instead of a grid: Optuna proposes, ASHA stops what lags behind."""

    space: dict[str, Any] = field(default_factory=dict)
    """By option: `{low, high}`, with `log = true` on a logarithmic scale and whole numbers for
    whole numbers; or `{choices = [...]}`."""
    num_samples: int = 20
    """Settings to try, for each algorithm and environment of the study together."""
    mode: str = ""
    """Action mode whose mean return is maximised; by default the algorithm's official one."""
    grace_env_steps: int = 0
    """ASHA stops no trial before; 0 lets all of them end."""
    reduction_factor: int = 3
    """ASHA goes on with one in so many at each of its rungs."""

    def __post_init__(self):
        require_at_least(self, 1, "num_samples")
        require_at_least(self, 2, "reduction_factor")
        require_at_least(self, 0, "grace_env_steps")


@dataclass(frozen=True)
class Study:
    """Algorithms x environments x settings x seeds.

    Options are named as in `dime.train`, nested ones with dots: "critic.head".
    """

    name: str = ""
    """Of the study's folder; by default the file's name."""
    description: str = ""
    """What it is for."""
    environments: tuple[str, ...] = ()
    """Ids of environments."""
    algorithms: tuple[str, ...] = ()
    """Names of algorithms."""
    arms: tuple[dict[str, Any], ...] = ()
    """Beside or instead of `algorithms`: tables with `algorithm` and options of its own."""
    preset: str = "paper"
    """What the options start from."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Options of every trial; also `env_kwargs`, a table that the environments are made with."""
    by_environment: dict[str, Any] = field(default_factory=dict)
    """By environment, options that replace those of `settings` there."""
    grid: dict[str, Any] = field(default_factory=dict)
    """By option a list of values; all combinations are run."""
    search: dict[str, Any] = field(default_factory=dict)
    """A search instead of the grid (`Search`)."""
    seeds: tuple[int, ...] = (0,)
    """One run each."""
    seeds_per_trial: int = 1
    """Seeds that share one program and one folder."""
    cpus: int = 1
    """Cores of a trial."""
    gpus: float = 0.0
    """GPUs of a trial; below 1 several share one."""
    retries: int = 2
    """How often a trial that failed is begun again from its last checkpoint."""
    laptop: dict[str, Any] = field(default_factory=dict)
    """What is different in the variant that ends in minutes on two cores."""

    def __post_init__(self):
        require(
            re.fullmatch(r"[\w.-]*", self.name, re.ASCII) is not None
            and self.name not in (".", ".."),
            f"name is {self.name!r}; a study's name is that of a folder: letters, digits, - and _.",
        )
        require_at_least(self, 1, "seeds_per_trial", "cpus")
        require_at_least(self, 0, "retries")
        require_at_least(self, 0.0, "gpus")
        require(bool(self.environments), "The study names no environments.")
        require(bool(self.algorithms or self.arms), "The study names no algorithms and no arms.")
        require(bool(self.seeds), "The study has no seeds.")
        require(len(set(self.seeds)) == len(self.seeds), f"A seed stands twice in {self.seeds}.")
        require(not (self.grid and self.search), "The study has a grid and a search; choose one.")
        for option, values in self.grid.items():
            require(
                isinstance(values, list | tuple) and len(values) > 0,
                f"grid: {option} is {values!r}; it must be a list of at least one value.",
            )
        _refuse_fields_among_options(self)
        for environment, own in self.by_environment.items():
            choose("environment in by_environment:", environment, self.environments)
            require(
                isinstance(own, Mapping), f"by_environment: {environment} is {own!r}, no table."
            )
        for place, arm in enumerate(self.arms):
            require("algorithm" in arm, f"arms: number {place + 1} names no algorithm: {arm}.")

    @property
    def of_search(self) -> Search | None:
        """The search, where there is one."""
        return replace_nested(Search(), self.search, "search.") if self.search else None


@dataclass(frozen=True)
class Trial:
    """One program of a study: a run directory of this name, with one or several seeds."""

    name: str
    config: RunConfig


def trials_of(study: Study) -> list[Trial]:
    """All trials of a study without a search, checked: each could start.

    Raises:
        DimeError: an option that an algorithm lacks or a value that it refuses, an environment
            that cannot be made, two trials with one name.
    """
    trials = [
        Trial(_name(config, shown), config)
        for environment, arm, values in itertools.product(
            study.environments, arms_of(study), _combinations(study.grid)
        )
        for config, shown in _with_seeds(study, environment, arm, values)
    ]
    check_trials(trials)
    return trials


def check_trials(trials: list[Trial]) -> None:
    """Raises `DimeError` for two trials in one folder, or for one that could not start."""
    by_name: dict[str, Trial] = {}
    for trial in trials:
        require(len(trial.name) <= LONGEST_NAME, f"The trial's name {trial.name} is too long.")
        twin = by_name.setdefault(trial.name, trial)
        require(
            twin is trial,
            f"Two trials would share the folder {trial.name}: an algorithm, environment, value or "
            "arm stands twice in the study.",
        )
    configs = {f"{trial.config.env} {trial.config.env_kwargs}": trial.config for trial in trials}
    for config in configs.values():
        with closing(make(config.env, config.env_kwargs)) as env:
            for trial in trials:
                if (trial.config.env, trial.config.env_kwargs) == (config.env, config.env_kwargs):
                    require_support(trial.config, env)


def varied_settings(trials: list[Trial]) -> tuple[str, ...]:
    """Settings that differ between trials of one algorithm on one environment, by their path."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for trial in trials:
        config = trial.config
        groups.setdefault((config.algorithm, config.env), []).append(flatten(config.to_json()))
    varied = {
        name: None
        for configs in groups.values()
        for config in configs
        for name in config
        if name not in OPERATIONAL and any(other.get(name) != config[name] for other in configs)
    }
    return tuple(varied)


def configured(study: Study, environment: str, arm: Mapping[str, Any], seeds: Any) -> RunConfig:
    """The config of a trial."""
    own = study.settings | study.by_environment.get(environment, {})
    options = nested({**own, **arm, "seeds": list(seeds)})
    algorithm = options.pop("algorithm")
    preset = options.pop("preset", study.preset)
    env_kwargs = options.pop("env_kwargs", {})
    require(isinstance(env_kwargs, dict), f"env_kwargs is {env_kwargs!r}; it must be a table.")
    return make_config(environment, algorithm, preset, env_kwargs, **options)


def _refuse_fields_among_options(study: Study) -> None:
    """What the study has a field of its own for would be ignored among options."""
    arms = [{name: arm[name] for name in arm if name != "algorithm"} for arm in study.arms]
    tables = [study.settings, study.grid, *arms, *study.by_environment.values()]
    for table in [*tables, study.search.get("space")]:
        for option, instead in _FIELDS.items():
            require(
                not (isinstance(table, Mapping) and option in table),
                f"'{option}' stands among the options of the study; its place is {instead}.",
            )


def nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with dotted names as nested tables.

    >>> nested({"critic.head": "scalar", "critic": {"hidden_dim": 8}, "batch_size": 4})
    {'critic': {'head': 'scalar', 'hidden_dim': 8}, 'batch_size': 4}
    """
    tree: dict[str, Any] = {}
    for name, value in options.items():
        *path, last = name.split(".")
        place = tree
        for part in path:
            place = place.setdefault(part, {})
            require(isinstance(place, dict), f"{name} is set, and {part} itself too.")
        if isinstance(value, Mapping) and isinstance(place.get(last), dict):
            place[last] |= value
        else:
            place[last] = value
    return tree


def arms_of(study: Study) -> list[dict[str, Any]]:
    """Algorithms, each with options of its own."""
    return [{"algorithm": name} for name in study.algorithms] + list(study.arms)


def _combinations(grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _with_seeds(
    study: Study, environment: str, arm: dict[str, Any], values: dict[str, Any]
) -> Iterator[tuple[RunConfig, dict[str, Any]]]:
    """The configs of one setting, one per group of seeds, and what of it belongs into the name."""
    own = {name: value for name, value in arm.items() if name != "algorithm"}
    for start in range(0, len(study.seeds), study.seeds_per_trial):
        seeds = study.seeds[start : start + study.seeds_per_trial]
        yield configured(study, environment, {**arm, **values}, seeds), {**own, **values}


def _name(config: RunConfig, shown: Mapping[str, Any]) -> str:
    """The trial's folder: environment, algorithm, what is varied, seeds."""
    seeds = config.training.seeds
    label = f"seed-{seeds[0]}" if len(seeds) == 1 else f"seeds-{seeds[0]}-{seeds[-1]}"
    values = [f"{name}-{value}" for name, value in shown.items()]
    parts = [config.env, config.algorithm, *values, label]
    return "_".join(re.sub(r"[^\w.+-]+", "-", part, flags=re.ASCII).strip("-") for part in parts)
