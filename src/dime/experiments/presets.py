"""Where settings start from: `paper` and `laptop`, for every algorithm and environment."""

from typing import Any, NoReturn

import gymnasium
import numpy as np

from dime.algorithms.registry import ALGORITHMS
from dime.critics.ensemble import CriticConfig
from dime.envs.environment import Environment
from dime.envs.registry import suite_of
from dime.errors import DimeError
from dime.training.config import TrainingConfig, replace_nested

PRESETS = {
    "paper": "the DIME paper's tables 2 and 3: wide critics, 1M env steps (for accelerators)",
    "laptop": "small networks, 20 000 env steps (minutes on two cores)",
}

# Returns that the categorical critic can tell apart (paper, appendix E).
_SUITE_SUPPORT = {"dm_control": 200.0, "mujoco": 1600.0, "myosuite": 3600.0}
# Our own tiny environments: the bandit's rewards are log densities in [-12.5, 1]; the multi-goal
# plane's returns lie in [-100, 10] for all but the first, random, policies.
_ENV_SUPPORT = {
    "dime/TwoModeBandit-v0": 20.0,
    "dime/MultiGoal-v0": 100.0,
    "Ant-v3-compatible": _SUITE_SUPPORT["mujoco"],
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
# The multi-goal plane shows several modes only while the entropy matters: as in soft Q-learning
# the temperature is fixed; a shorter horizon keeps staying alive from being worth its entropy.
_LAPTOP_MULTI_GOAL = {"temperature": {"initial": 2.0, "learn": False}, "discount": 0.9}


def preset_training(preset: str, algorithm: str) -> TrainingConfig:
    """The loop's settings."""
    overrides = _LAPTOP_TRAINING if preset == "laptop" else {}
    return replace_nested(TrainingConfig(), {**overrides, **ALGORITHMS[algorithm].training})


def preset_settings(preset: str, algorithm: str, env: str) -> Any:
    """The algorithm's settings, with the critic's support where the environment's is known."""
    chosen = ALGORITHMS[algorithm]
    settings = replace_nested(chosen.config(), chosen.presets.get(preset, {}))
    if preset == "laptop" and algorithm == "dime" and env == "dime/MultiGoal-v0":
        settings = replace_nested(settings, _LAPTOP_MULTI_GOAL)
    return with_known_support(settings, env, preset)


def with_known_support(settings: Any, env: str, preset: str) -> Any:
    """The settings with the critic's support of this environment, or without one."""
    if not _has_support(settings):
        return settings
    support = known_support(env)
    if preset == "laptop" and suite_of(env) == "dm_control":
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
    return isinstance(getattr(settings, "critic", None), CriticConfig)


def known_support(env: str) -> float | None:
    """The largest return of the critic's support on this environment, where one is established."""
    if env in _ENV_SUPPORT:
        return _ENV_SUPPORT[env]
    suite = suite_of(env)
    if suite == "gymnasium" and env in gymnasium.registry:
        entry_point = str(gymnasium.registry[env].entry_point)
        suite = "mujoco" if "gymnasium.envs.mujoco" in entry_point else suite
    return _SUITE_SUPPORT.get(suite)


def refuse_unknown_support(env: Environment, discount: float) -> NoReturn:
    """Raises `DimeError` with the support that 1000 random steps suggest.

    The largest discounted sum of rewards is |reward| / (1 - discount), or |reward| times the
    length of an episode where that is less.
    """
    low, high = _reward_range(env, 1000)
    horizon = min(1.0 / (1.0 - discount), env.max_episode_steps or np.inf)
    bound = _round_up(max(abs(low), abs(high)) * horizon)
    raise DimeError(
        f"No support of the critic's returns is established for {env.name}. In 1000 random steps "
        f"its rewards lay in [{low:.4g}, {high:.4g}]; that suggests --critic.v-min {-bound:g} "
        f"--critic.v-max {bound:g}. Rewards of a trained policy may be larger: watch "
        "target_end_mass in the records."
    )


def _reward_range(env: Environment, num_steps: int) -> tuple[float, float]:
    generator = np.random.default_rng(0)
    env.reset(0)
    rewards: list[float] = []
    episode = 0
    for _ in range(num_steps):
        action = generator.uniform(-1.0, 1.0, env.action_dim).astype(np.float32)
        result = env.step(action)
        rewards.append(result.reward)
        if result.terminated or result.truncated:
            episode += 1
            env.reset(episode)
    return min(rewards), max(rewards)


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50, ... that is not below `value`."""
    if value <= 0.0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power >= value))
