"""The settings of a run, and their conversion to JSON and back."""

import dataclasses
import json
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from dime.algorithms.registry import find_algorithm
from dime.errors import DimeError, choose, require, require_at_least

FORMAT_VERSION = 1
"""Of `config.json` and of checkpoints. Every release reads all earlier ones."""

EnvLike = str | Callable[..., Any]
"""Id of an environment, or a function that returns a new `gymnasium.Env` at each call."""


def require_version(version: Any, where: object) -> None:
    """Raises `DimeError` unless this release reads this format version."""
    require(
        isinstance(version, int) and 1 <= version <= FORMAT_VERSION,
        f"{where} has format version {version}; this release of dime reads up to {FORMAT_VERSION}. "
        "Upgrade: pip install --upgrade dime-rl",
    )


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of the loop, for every algorithm. All intervals are in env steps of one seed."""

    seeds: tuple[int, ...] = (0,)
    """Random seeds. Each trains its own agent; all share one program."""
    num_env_steps: int = 1_000_000
    """Length of the run, per seed (paper: 1M; 3M in figure 6c)."""
    num_random_steps: int = 5_000
    """Initial env steps with uniform random actions, no updates (paper, table 2)."""
    updates_per_env_step: int = 2
    """Critic updates every `env_steps_per_update` env steps (paper, table 2)."""
    env_steps_per_update: int = 1
    """Env steps between updates; above 1 it divides the update-to-data ratio."""
    envs_per_seed: int = 1
    """Parallel environments per seed; more than 1 only for environments computed by JAX."""
    batch_size: int = 256
    """Transitions per minibatch; each update draws a new one (paper, table 2)."""
    replay_capacity: int = 1_000_000
    """Transitions kept in the replay buffer (paper, table 2)."""
    replay_dtype: Literal["float32", "float16"] = "float32"
    """Type of the stored observations; float16 halves their memory."""
    bootstrap_at_time_limits: bool = True
    """If off, a time limit counts as termination, as in some released code."""
    evaluate_every: int = 24_000
    """Env steps between evaluations, plus one at step 0 and one at the end (published curves)."""
    num_evaluation_episodes: int = 5
    """Episodes per evaluation and mode (paper)."""
    evaluation_modes: tuple[str, ...] = ("stochastic", "deterministic")
    """How evaluations choose actions; by default in the official mode and in a common one."""
    log_every: int = 500
    """Env steps between lines of metrics.jsonl: 10 to 500, or to envs_per_seed if larger."""
    checkpoint_every: int = 10_000
    """Env steps between checkpoints, plus one before the first step and one at the end."""
    max_env_restarts: int = 3
    """How often a seed's environments may be re-created after exceptions before the seed fails."""
    env_process: bool = False
    """Run each environment in its own process; one that hangs or dies is re-created too."""
    env_timeout_s: float = 60.0
    """With env_process: time limit for a step, a reset or the creation of an environment."""
    matmul_precision: Literal["float32", "tensorfloat32", "bfloat16"] = "float32"
    """Input precision of matrix products on GPUs, which sum in float32. CPUs always use float32."""
    overlap: bool = False
    """Update while the environments take the next step; updates lag by one env step."""
    tensorboard: bool = True
    """Also write TensorBoard event files."""
    wandb_project: str | None = None
    """Also log to this project of Weights & Biases (extra `wandb`)."""

    def __post_init__(self):
        require_at_least(
            self,
            1,
            *("num_env_steps", "updates_per_env_step", "batch_size", "replay_capacity"),
            *("env_steps_per_update", "envs_per_seed"),
            *("evaluate_every", "num_evaluation_episodes", "checkpoint_every"),
        )
        require_at_least(self, 0, "num_random_steps", "max_env_restarts")
        require(
            0.0 < self.env_timeout_s <= 86_400,  # a day
            f"env_timeout_s is {self.env_timeout_s}; it must be above 0 and at most 86400.",
        )
        longest = max(500, self.envs_per_seed)
        require(
            10 <= self.log_every <= longest,
            f"log_every is {self.log_every}; it must be 10 to {longest}.",
        )
        require(
            self.env_steps_per_update <= self.num_env_steps,
            f"env_steps_per_update is {self.env_steps_per_update}; in a run of "
            f"{self.num_env_steps} env steps there would be no update.",
        )
        self._require_whole_rounds()
        require(len(self.seeds) > 0, "No seed was given; --seeds needs at least one.")
        for name, kind in (("seeds", "seed"), ("evaluation_modes", "mode")):
            values = getattr(self, name)
            require(len(set(values)) == len(values), f"A {kind} appears twice in {name} {values}.")
        require(
            all(0 <= seed < 2**31 for seed in self.seeds),
            f"seeds are {self.seeds}; each must be 0 to 2147483647.",
        )
        require(
            self.num_env_steps * self.updates_per_env_step < 2**31,
            f"num_env_steps is {self.num_env_steps} with {self.updates_per_env_step} updates each; "
            "updates are counted up to 2147483647.",
        )

    @property
    def effective_capacity(self) -> int:
        """Transitions that this run can collect, at most `replay_capacity`."""
        return min(self.replay_capacity, self.num_env_steps)

    @property
    def updates_per_round(self) -> int:
        """Updates that follow one round of steps of a seed's environments."""
        return self.updates_per_env_step * max(1, self.envs_per_seed // self.env_steps_per_update)

    def learns_after(self, env_step: Any) -> Any:
        """Whether updates follow an env step (counted from 1, also in a compiled program)."""
        return (env_step > self.num_random_steps) & (env_step % self.env_steps_per_update == 0)

    def _require_whole_rounds(self) -> None:
        together, per_update = self.envs_per_seed, self.env_steps_per_update
        names = ("num_env_steps", "num_random_steps", "evaluate_every", "log_every")
        for name in (*names, "checkpoint_every"):
            require(
                getattr(self, name) % together == 0,
                f"{name} is {getattr(self, name)}; with {together} environments that step together "
                f"(envs_per_seed) it must be a multiple of {together}.",
            )
        require(
            max(together, per_update) % min(together, per_update) == 0,
            f"env_steps_per_update is {per_update}; with {together} environments that step "
            "together it must divide that number, or be a multiple of it.",
        )
        require(
            together <= self.replay_capacity,
            f"envs_per_seed is {together}; a replay of {self.replay_capacity} transitions does not "
            "hold one of each.",
        )


@dataclass(frozen=True)
class RunConfig:
    """Everything a run depends on."""

    env: str
    """Id of the environment, or a description of one that was passed as an object."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Passed to the environment's constructor."""
    env_is_object: bool = False
    """The environment was passed as a Python object, which a file cannot hold."""
    algorithm: str = "dime"
    """Name of the algorithm."""
    preset: str = "paper"
    """The preset that the settings started from."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Settings of the loop."""
    settings: Any = None
    """The algorithm's own config."""

    def __post_init__(self):
        try:
            json.dumps(self.env_kwargs, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise DimeError(
                f"env_kwargs are {self.env_kwargs}, which JSON cannot hold ({error}). Bind such "
                "values in a function that makes the environment."
            ) from error
        algorithm = find_algorithm(self.algorithm)
        for mode in self.training.evaluation_modes:
            choose(f"mode for {self.algorithm} in evaluation_modes:", mode, algorithm.modes)
        algorithm.check(self.settings, self.training)

    def to_json(self) -> dict[str, Any]:
        """The whole config as JSON values."""
        return {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, content: Any) -> "RunConfig":
        """The config again; refuses unknown names, wrong types and impossible values."""
        require(isinstance(content, dict), f"A config is a table of options, got {content!r:.80}.")
        content = {name: value for name, value in content.items() if name != "sha256"}
        require_version(content.pop("format_version", FORMAT_VERSION), "The config")
        algorithm = content.get("algorithm", "dime")
        require(isinstance(algorithm, str), f"algorithm is {algorithm!r}; it must be a name.")
        chosen = find_algorithm(algorithm)
        training = TrainingConfig(evaluation_modes=chosen.default_modes)
        defaults = cls("", algorithm=algorithm, training=training, settings=chosen.config())
        training = content.get("training")
        if isinstance(training, dict):  # options of earlier releases that changed only the memory
            training = {name: value for name, value in training.items() if name != "next_obs_once"}
            if training.get("replay_dtype") == "uint8":
                training["replay_dtype"] = "float32"
            content["training"] = training
        return replace_nested(defaults, content)


Config = TypeVar("Config")


def replace_nested(config: Config, overrides: dict[str, Any], where: str = "") -> Config:
    """The config with `overrides` in it: values by field name, dicts for nested configs.

    Raises `DimeError` for an unknown field (naming the nearest), a value of a wrong type or one
    out of range.

    >>> replace_nested(TrainingConfig(), {"batch_siz": 3})
    Traceback (most recent call last):
    ...
    dime.errors.DimeError: There is no option 'batch_siz'; nearest: batch_size. There are: ...
    """
    hints = get_type_hints(type(config))
    changed = {}
    for name, value in overrides.items():
        path = f"{where}{name}"
        choose("option", path, [f"{where}{known}" for known in hints])
        current = getattr(config, name)
        if dataclasses.is_dataclass(current):
            require(isinstance(value, dict), f"{path} is {value!r}; it must be a table of options.")
            changed[name] = replace_nested(current, value, f"{path}.")
        else:
            changed[name] = _convert(value, hints[name], path)
    return dataclasses.replace(config, **changed)  # pyright: ignore[reportArgumentType]


def from_table(kind: type[Config], content: Any, path: str = "") -> Config:
    """A dataclass from a table of JSON values; unknown entries are ignored.

    Raises `DimeError` for a missing entry, a value of a wrong type, or one that `kind` refuses.
    """
    require(isinstance(content, dict), f"{path or 'everything'} is {content!r:.80}; not a table.")
    hints = get_type_hints(kind)
    values = {
        name: _convert(content[name], hints[name], f"{path}{name}")
        for name in hints
        if name in content
    }
    try:
        return kind(**values)
    except TypeError as error:
        raise DimeError(f"{path}: {error}.") from error


def _convert(value: Any, hint: Any, path: str) -> Any:
    """The value if it is of the hinted type (JSON lists become tuples, ints become floats)."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hasattr(hint, "from_json"):
        return hint.from_json(value)
    if dataclasses.is_dataclass(hint):
        return from_table(hint, value, f"{path}.")  # pyright: ignore[reportArgumentType]
    if origin is types.UnionType:
        return None if value is None else _convert(value, arguments[0], path)
    if origin is Literal:
        choices = ", ".join(map(str, arguments))
        require(value in arguments, f"{path} is {value!r}; it must be one of: {choices}.")
        return value
    found = type(value)
    if hint is float and found is int and abs(value) < 2**63:
        return float(value)
    kind: Any = list | tuple if origin is tuple else origin or hint
    name = {list: "a list", tuple: "a list", dict: "a table"}.get(origin)
    require(
        hint is Any or (issubclass(found, kind) and (found is bool) == (hint is bool)),
        f"{path} is {value!r:.80}; it must be {name or f'of type {hint.__name__}'}.",
    )
    if origin in (list, tuple):
        return origin(_convert(item, arguments[0], path) for item in value)
    if origin is dict:
        return {key: _convert(item, arguments[1], path) for key, item in value.items()}
    return value
