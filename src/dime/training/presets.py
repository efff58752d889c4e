"""From names and options to the config of a run: presets of every algorithm and environment."""

import fnmatch
import json
from dataclasses import fields
from importlib import resources
from typing import Any

from dime.algorithms.algorithm import Algorithm, Preset
from dime.algorithms.registry import find_algorithm
from dime.critics.heads import HeadConfig
from dime.errors import DimeError, choose
from dime.training.config import EnvLike, RunConfig, TrainingConfig, replace_nested

# A data file, so that `dime list presets` needs no JAX.
_PRESETS_FILE = resources.files("dime").joinpath("data", "presets.json")
PRESETS = dict(json.loads(_PRESETS_FILE.read_text("utf-8")))
"""What each preset is, by name."""

_OF_EVERY_RUN = {"env", "algorithm", "preset", "config", "run_dir", "env_kwargs", "video", "yes"}

# Returns that the categorical critic can tell apart (paper, appendix E).
_SUITE_SUPPORT = {"dm_control": 200.0, "mujoco": 1600.0, "myosuite": 3600.0}
# Our own tiny environments: the bandit's rewards are log densities in [-12.5, 1]; the multi-goal
# plane's returns lie in [-100, 10] for all but the first, random, policies.
_ENV_SUPPORT = {"dime/TwoModeBandit-v0": 20.0, "dime/MultiGoal-v0": 100.0}
# Rewards in [0, 1] and a discount of 0.99 bound returns by 100: with twice the paper's resolution,
# cartpole-swingup is learned in fewer steps.
_LAPTOP_DM_CONTROL_SUPPORT = 100.0

_LAPTOP_TRAINING = {
    "num_env_steps": 20_000,
    "num_random_steps": 500,
    "replay_capacity": 100_000,
    "evaluate_every": 2_500,
    "checkpoint_every": 500,
    "log_every": 250,
}


def make_config(
    env: EnvLike,
    algorithm: str = "dime",
    preset: str = "paper",
    env_kwargs: dict[str, Any] | None = None,
    **options: Any,
) -> RunConfig:
    """The config of a run: a preset with `options` (as for `train`) in it."""
    choose("preset", preset, PRESETS)
    env_id = env if isinstance(env, str) else ""  # a factory's may be that of another environment
    settings = preset_settings(preset, algorithm, env_id)
    of_loop = {field.name for field in fields(TrainingConfig)}
    of_algorithm = {field.name for field in fields(settings)}
    if taken := of_algorithm & (of_loop | _OF_EVERY_RUN):
        raise DimeError(
            f"The config of the algorithm '{algorithm}' has a field {min(taken)!r}, which is an "
            "option of every run. Give it another name."
        )
    for name in options:
        choose("option", name, of_loop | of_algorithm)
    for_loop = {name: value for name, value in options.items() if name in of_loop}
    for_algorithm = {name: value for name, value in options.items() if name in of_algorithm}
    return RunConfig(
        env=env if isinstance(env, str) else getattr(env, "__name__", type(env).__name__),
        env_kwargs=env_kwargs or {},
        env_is_object=not isinstance(env, str),
        algorithm=algorithm,
        preset=preset,
        training=replace_nested(preset_training(preset, algorithm, env_id), for_loop),
        settings=replace_nested(settings, for_algorithm),
    )


def preset_training(preset: str, algorithm: str, env: str) -> TrainingConfig:
    """The loop's settings."""
    chosen = find_algorithm(algorithm)
    overrides: dict[str, Any] = {"evaluation_modes": chosen.default_modes}
    for part in _parts(chosen, preset, env):
        overrides |= part.training
    return replace_nested(TrainingConfig(), overrides)


def preset_settings(preset: str, algorithm: str, env: str) -> Any:
    """The algorithm's settings, with the critic's support if the environment's is known."""
    chosen = find_algorithm(algorithm)
    settings = chosen.config()
    for part in _parts(chosen, preset, env):
        settings = replace_nested(settings, dict(part.settings))
    if _has_support(settings) and (settings.critic.v_min, settings.critic.v_max) == (None, None):
        return with_known_support(settings, env, preset)
    return settings


def _parts(algorithm: Algorithm, preset: str, env: str) -> list[Preset]:
    """What the preset is made of; later parts override earlier ones."""
    parts = []
    for name in dict.fromkeys(("paper", preset)):
        if name == "laptop":
            parts.append(Preset(training=_LAPTOP_TRAINING))
        chosen = algorithm.presets.get(name, Preset())
        parts.append(chosen)
        for pattern, more in chosen.by_env.items():  # a suite, or a pattern of ids
            if pattern == _suite(env) or fnmatch.fnmatchcase(env, pattern):
                parts.append(more)
    return parts


def _suite(env: str) -> str:
    """The suite as in the paper: Gymnasium's MuJoCo tasks are one.

    Playground has the DM Control Suite's tasks, with the same rewards and time limits.
    """
    if not env:
        return ""
    import gymnasium  # slow, and the help does not need it

    from dime.envs.registry import suite_of

    suite = suite_of(env)
    if suite == "playground":
        return "dm_control"
    if env == "Ant-v3-compatible":
        return "mujoco"
    if suite == "gymnasium" and env in gymnasium.registry:
        entry_point = str(gymnasium.registry[env].entry_point)
        return "mujoco" if "gymnasium.envs.mujoco" in entry_point else suite
    return suite


def with_known_support(settings: Any, env: str, preset: str) -> Any:
    """The settings with the critic's support of this environment, or without one."""
    if not _has_support(settings):
        return settings
    suite = _suite(env)
    support = _ENV_SUPPORT.get(env, _SUITE_SUPPORT.get(suite))
    if preset == "laptop" and suite == "dm_control":
        support = _LAPTOP_DM_CONTROL_SUPPORT
    low, high = (None, None) if support is None else (-support, support)
    return replace_nested(settings, {"critic": {"v_min": low, "v_max": high}})


def lacks_support(settings: Any) -> bool:
    """Whether a categorical critic is used whose support has yet to be given."""
    if not _has_support(settings):
        return False
    critic = settings.critic
    return critic.head == "categorical" and None in (critic.v_min, critic.v_max)


def _has_support(settings: Any) -> bool:
    return isinstance(getattr(settings, "critic", None), HeadConfig)
