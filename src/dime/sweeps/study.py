"""A study: which runs an experiment is made of, and the files that say so."""

import dataclasses
import itertools
import re
import runpy
import tomllib
from collections import defaultdict
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dime.envs.registry import make
from dime.errors import DimeError, choose, require, require_at_least
from dime.figures.runs import LONGEST_NAME, OPERATIONAL, flatten
from dime.training.config import RunConfig, replace_nested
from dime.training.presets import make_config
from dime.training.return_support import require_support

_SHIPPED = Path(__file__).with_name("studies")
_OWN_FIELDS = {"seeds": "seeds", "algorithm": "algorithms or arms", "env": "environments"}


@dataclass(frozen=True)
class Search:
    """A search for settings instead of a grid."""

    space: dict[str, Any] = field(default_factory=dict)
    """By option: `{low, high}`, integers or floats, with `log = true` on a logarithmic scale; or
    `{choices = [...]}`."""
    num_samples: int = 20
    """How many combinations to try."""
    mode: str = ""
    """Action mode whose mean return is maximised; by default the algorithm's official one."""
    grace_env_steps: int = 0
    """ASHA stops no trial before this environment step; 0 runs all of them to the end."""
    reduction_factor: int = 3
    """ASHA continues one trial in this many at each of its rungs."""

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
    """Name of the study's folder; by default the file's name."""
    description: str = ""
    """What it is for."""
    environments: tuple[str, ...] = ()
    """Environment ids."""
    algorithms: tuple[str, ...] = ()
    """Names of algorithms."""
    arms: tuple[dict[str, Any], ...] = ()
    """Tables with `algorithm` and its options, in addition to or instead of `algorithms`."""
    preset: str = "paper"
    """What the options start from."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Options of every trial; also `env_kwargs`, a table of arguments for the environments."""
    by_environment: dict[str, Any] = field(default_factory=dict)
    """By environment, options that replace those in `settings`."""
    grid: dict[str, Any] = field(default_factory=dict)
    """By option, a list of values; all combinations are run."""
    search: dict[str, Any] = field(default_factory=dict)
    """Fields of `Search`, instead of a grid."""
    seeds: tuple[int, ...] = (0,)
    """One run each."""
    seeds_per_trial: int = 1
    """How many seeds share one program and one folder."""
    cpus: int = 1
    """CPU cores per trial."""
    gpus: float = 0.0
    """GPUs per trial; below 1, several trials share one."""
    retries: int = 2
    """How often a failed trial is restarted from its last checkpoint."""
    laptop: dict[str, Any] = field(default_factory=dict)
    """Fields that differ in the variant that takes minutes on two cores."""

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
        require(len(set(self.seeds)) == len(self.seeds), f"A seed occurs twice in {self.seeds}.")
        require(not (self.grid and self.search), "The study has a grid and a search; choose one.")
        for option, values in self.grid.items():
            require(
                isinstance(values, list | tuple) and len(values) > 0,
                f"grid: {option} is {values!r}; it must be a list of at least one value.",
            )
        for environment, own in self.by_environment.items():
            choose("environment in by_environment:", environment, self.environments)
            require(
                isinstance(own, Mapping), f"by_environment: {environment} is {own!r}, no table."
            )
        for place, arm in enumerate(self.arms):
            require("algorithm" in arm, f"arms: number {place + 1} names no algorithm: {arm}.")
        arms = [{name for name in arm if name != "algorithm"} for arm in self.arms]
        space = self.search.get("space")
        space = space if isinstance(space, Mapping) else {}
        options = set().union(self.settings, self.grid, space, *self.by_environment.values(), *arms)
        for option in options & set(_OWN_FIELDS):  # they would be ignored
            raise DimeError(
                f"'{option}' is among the options of the study; its place is the field "
                f"{_OWN_FIELDS[option]}."
            )

    @property
    def of_search(self) -> Search | None:
        """The search, if it is one."""
        return replace_nested(Search(), self.search, "search.") if self.search else None


class Trial(NamedTuple):
    """One program of a study: a run directory of this name, with one or several seeds."""

    name: str
    config: RunConfig


def trials_of(study: Study) -> list[Trial]:
    """All trials of a study without a search, checked: each could start.

    Raises:
        DimeError: an option that an algorithm lacks or a value that it refuses, an environment
            that cannot be made, two trials with one name.
    """
    require(
        study.of_search is None,
        "A search draws its trials as it runs; they can be neither listed nor numbered in advance.",
    )
    starts = range(0, len(study.seeds), study.seeds_per_trial)
    groups = [study.seeds[start : start + study.seeds_per_trial] for start in starts]
    trials = []
    for env, arm, values, seeds in itertools.product(
        study.environments, arms_of(study), itertools.product(*study.grid.values()), groups
    ):
        options = {**arm, **dict(zip(study.grid, values, strict=True))}
        config = configured(study, env, options, seeds)
        trials.append(Trial(_name(config, options), config))
    check_trials(trials)
    return trials


def check_trials(trials: list[Trial]) -> None:
    """Raises `DimeError` for two trials in one folder, or for one that could not start."""
    names: set[str] = set()
    by_environment: dict[str, list[RunConfig]] = defaultdict(list)
    for name, config in trials:
        require(len(name) <= LONGEST_NAME, f"The trial's name {name} is too long.")
        require(
            name not in names,
            f"Two trials would share the folder {name}: an algorithm, environment, value or "
            "arm occurs twice in the study.",
        )
        names.add(name)
        by_environment[f"{config.env} {config.env_kwargs}"].append(config)
    for configs in by_environment.values():
        with closing(make(configs[0].env, configs[0].env_kwargs)) as env:
            for config in configs:
                require_support(config, env)


def varied_settings(trials: list[Trial]) -> tuple[str, ...]:
    """Settings that differ between trials of one algorithm on one environment, by their path."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for config in (trial.config for trial in trials):
        groups[config.algorithm, config.env].append(flatten(config.to_json()))
    varied = (
        name
        for configs in groups.values()
        for config in configs
        for name in config
        if name not in OPERATIONAL and any(other.get(name) != config[name] for other in configs)
    )
    return tuple(dict.fromkeys(varied))


def arms_of(study: Study) -> list[dict[str, Any]]:
    """Algorithms, each with its options."""
    return [{"algorithm": name} for name in study.algorithms] + list(study.arms)


def configured(study: Study, environment: str, arm: Mapping[str, Any], seeds: Any) -> RunConfig:
    """The config of a trial."""
    own = study.settings | study.by_environment.get(environment, {})
    options = nested({**own, **arm, "seeds": list(seeds)})
    algorithm = options.pop("algorithm")
    preset = options.pop("preset", study.preset)
    env_kwargs = options.pop("env_kwargs", {})
    require(isinstance(env_kwargs, dict), f"env_kwargs is {env_kwargs!r}; it must be a table.")
    return make_config(environment, algorithm, preset, env_kwargs, **options)


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


def _name(config: RunConfig, options: Mapping[str, Any]) -> str:
    """The trial's folder: environment, algorithm, what is varied, seeds."""
    seeds = config.training.seeds
    label = f"seed-{seeds[0]}" if len(seeds) == 1 else f"seeds-{seeds[0]}-{seeds[-1]}"
    values = [f"{name}-{value}" for name, value in options.items() if name != "algorithm"]
    parts = [config.env, config.algorithm, *values, label]
    return "_".join(re.sub(r"[^\w.+-]+", "-", part, flags=re.ASCII).strip("-") for part in parts)


def read_study(study: Study | Mapping[str, Any] | str | Path, variant: str | None = None) -> Study:
    """A study from a file, from the shipped ones by name, or from a table.

    Args:
        study: a .toml file; a .py file that defines STUDY, a `Study` or a table; the name of a
            shipped study (`dime list studies`); or the study itself.
        variant: "laptop" for the study's small variant.

    Raises:
        DimeError: no such study, an unknown field (with the nearest), an empty grid, ...
    """
    name = "study"
    if not isinstance(study, Study | Mapping):
        name, study = Path(study).stem or name, _read_file(Path(study))
    content = dataclasses.asdict(study) if isinstance(study, Study) else dict(study)
    content["name"] = content.get("name") or name
    if variant is not None:
        choose("variant", variant, ["laptop"])
        small = content.pop("laptop", None) or {}
        has_variant = isinstance(small, Mapping) and bool(small)
        require(has_variant, f"The study {content['name']} has no variant 'laptop', a table.")
        content |= {"name": f"{content['name']}-laptop", **small}
    if type(seeds := content.get("seeds")) is int:
        require(1 <= seeds <= 10_000, f"seeds is {seeds}; it must be 1 to 10000.")
        content["seeds"] = list(range(seeds))
    # The defaults are no study: fields are replaced in one that is.
    empty = {"environments": [], "algorithms": []}
    return replace_nested(Study(environments=("",), algorithms=("",)), empty | content)


def _read_file(path: Path) -> Study | Mapping[str, Any]:
    source = source_of(path)
    if path.suffix == ".py":
        try:
            found = runpy.run_path(str(path)).get("STUDY")
        except (Exception, SystemExit) as error:  # it is the user's own program
            raise DimeError(f"The study {path} cannot be run ({error!r}).") from error
        if isinstance(found, Study | Mapping):
            return found
        raise DimeError(f"{path} must define STUDY, a dime.Study or a table.")
    try:
        return tomllib.loads(source)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise DimeError(f"The study {path} is not TOML: {error}.") from error


def source_of(study: Any, variant: str | None = None) -> str:
    """The text of a study's file, or of a shipped study; empty for a table."""
    if isinstance(study, Study | Mapping):
        return ""
    path, note = Path(study), "" if variant is None else f"# --variant {variant}\n"
    if path.suffix not in (".toml", ".py"):
        path = _SHIPPED / f"{choose('shipped study', str(path), shipped_studies())}.toml"
    try:
        return note + path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DimeError(f"The study {path} cannot be read ({error}).") from error


def shipped_studies() -> list[str]:
    """Names of the studies that come with the package."""
    return sorted(file.stem for file in _SHIPPED.glob("*.toml"))
