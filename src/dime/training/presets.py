"""Where settings start from: `paper` and `laptop`, for every algorithm and environment."""

import fnmatch
from typing import Any

from dime.algorithms.algorithm import Algorithm, Preset
from dime.algorithms.registry import find_algorithm
from dime.critics.heads import HeadConfig
from dime.training.config import TrainingConfig, replace_nested

# Returns that the categorical critic can tell apart (paper, appendix E).
_SUITE_SUPPORT = {"dm_control": 200.0, "mujoco": 1600.0, "myosuite": 3600.0}
# Our own tiny environments: the bandit's rewards are log densities in [-12.5, 1]; the multi-goal
# plane's returns lie in [-100, 10] for all but the first, random, policies.
_ENV_SUPPORT = {
    "dime/TwoModeBandit-v0": 20.0,
    "dime/MultiGoal-v0": 100.0,
}
# Rewards in [0, 1] and a discount of 0.99 bound returns by 100: with twice the paper's resolution,
# cartpole-swingup is learnt in fewer steps.
_LAPTOP_DM_CONTROL_SUPPORT = 100.0

_LAPTOP_TRAINING = {
    "num_env_steps": 20_000,
    "num_random_steps": 500,
    "replay_capacity": 100_000,
    "evaluate_every": 2_500,
    "checkpoint_every": 500,
    "log_every": 250,
}


def preset_training(preset: str, algorithm: str, env: str) -> TrainingConfig:
    """The loop's settings."""
    chosen = find_algorithm(algorithm)
    overrides: dict[str, Any] = {"evaluation_modes": chosen.default_modes}
    for part in _parts(chosen, preset, env):
        overrides |= part.training
    return replace_nested(TrainingConfig(), overrides)


def preset_settings(preset: str, algorithm: str, env: str) -> Any:
    """The algorithm's settings, with the critic's support where the environment's is known."""
    chosen = find_algorithm(algorithm)
    settings = chosen.config()
    for part in _parts(chosen, preset, env):
        settings = replace_nested(settings, dict(part.settings))
    if _has_support(settings) and (settings.critic.v_min, settings.critic.v_max) == (None, None):
        return with_known_support(settings, env, preset)
    return settings


def _parts(algorithm: Algorithm, preset: str, env: str) -> list[Preset]:
    """What the preset is made of, the later parts before the earlier ones."""
    parts = []
    for name in dict.fromkeys(("paper", preset)):
        if name == "laptop":
            parts.append(Preset(training=_LAPTOP_TRAINING))
        chosen = algorithm.presets.get(name, Preset())
        for_env = [more for pattern, more in chosen.by_env.items() if _fits(pattern, env)]
        parts += [chosen, *for_env]
    return parts


def _fits(pattern: str, env: str) -> bool:
    """Whether `pattern` is the environment's suite, or one of ids that it fits."""
    return pattern == _suite(env) or fnmatch.fnmatchcase(env, pattern)


def _suite(env: str) -> str:
    """The suite as the paper has them: Gymnasium's MuJoCo tasks are one.

    Playground has the DM Control Suite's tasks, with the same rewards and time limits.
    """
    if not env:
        return ""
    import gymnasium  # takes long, and the help does without

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
    support = known_support(env)
    if preset == "laptop" and _suite(env) == "dm_control":
        support = _LAPTOP_DM_CONTROL_SUPPORT
    low, high = (None, None) if support is None else (-support, support)
    return replace_nested(settings, {"critic": {"v_min": low, "v_max": high}})


def lacks_support(settings: Any) -> bool:
    """Whether a categorical critic is to be used whose support is still to be given."""
    if not _has_support(settings):
        return False
    critic = settings.critic
    return critic.head == "categorical" and None in (critic.v_min, critic.v_max)


def _has_support(settings: Any) -> bool:
    return isinstance(getattr(settings, "critic", None), HeadConfig)


def known_support(env: str) -> float | None:
    """The largest return of the critic's support on this environment, where one is established."""
    return _ENV_SUPPORT.get(env, _SUITE_SUPPORT.get(_suite(env)))
