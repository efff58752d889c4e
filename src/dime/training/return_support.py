"""A support for a categorical critic on an environment for which none is established."""

from typing import Any

import numpy as np

from dime.envs.environment import Environment
from dime.errors import DimeError, describe
from dime.training.config import RunConfig
from dime.training.presets import lacks_support
from dime.updates.max_entropy import TemperatureConfig

_NUM_STEPS = 1000
_ROUNDING = 1e-9


def require_support(config: RunConfig, env: Environment) -> None:
    """Raises `DimeError`, with a proposal, if the critic's support has yet to be given.

    Random steps and the temperature suggest one.
    """
    settings = config.settings
    if not lacks_support(settings):
        return
    try:
        bootstrap = config.training.bootstrap_at_time_limits
        returns = _random_returns(env, settings.discount, bootstrap)
    except DimeError:
        raise
    except Exception as error:  # whatever a user's environment raises
        raise DimeError(
            f"{env.name} raised {describe(error)} in the random steps that should suggest a "
            "support of the critic's returns. Fix the environment, or give --critic.v-min and "
            "--critic.v-max."
        ) from error
    largest, entropy = float(np.abs(returns).max()), entropy_share(settings, env.action_dim)
    raise DimeError(
        f"No support of the critic's returns is established for {env.name}. In {_NUM_STEPS} random "
        f"steps its discounted returns lay in [{returns.min():.4g}, {returns.max():.4g}], "
        "continued across time limits"
        + (f"; the entropy adds up to {entropy:.4g} at the first temperature." if entropy else ".")
        + f" That suggests {_as_options(largest + entropy)}."
        + _less_entropy(settings, largest, entropy)
        + " Returns of a trained policy may be larger: watch target_clipped_mass in the records."
    )


def _as_options(bound: float) -> str:
    bound = round_up(bound)
    return f"--critic.v-min {-bound:g} --critic.v-max {bound:g}"


def _less_entropy(settings: Any, largest: float, entropy: float) -> str:
    """An alternative if most of the support would be the entropy's."""
    if not entropy > largest > 0.0:
        return ""
    initial = settings.temperature.initial * largest / entropy
    return (
        f" Most of it is the entropy's. With --temperature.initial {initial:.1g}, or larger "
        f"rewards, {_as_options(2.0 * largest)} would resolve returns better."
    )


def entropy_share(settings: Any, action_dim: int) -> float:
    """What the entropy terms add up to in an endless return, at the first temperature.

    The policy is assumed to have the entropy that the temperature drives it to.
    """
    temperature = getattr(settings, "temperature", None)
    if temperature is None:
        return 0.0
    if isinstance(temperature, TemperatureConfig):
        prior_std = getattr(settings.policy, "prior_std", None)
        of_prior = 0.0 if prior_std is None else np.log(prior_std * np.sqrt(2.0 * np.pi * np.e))
        per_dim = temperature.target_running_cost_per_dim - of_prior
    else:
        per_dim = temperature.target_entropy_per_dim
    steps = settings.discount / (1.0 - settings.discount)
    return float(temperature.initial * abs(per_dim) * action_dim * steps)


def _random_returns(env: Environment, discount: float, bootstrap: bool) -> np.ndarray:
    generator = np.random.default_rng(0)
    env.reset(0)
    rewards, ends = [], []
    for _ in range(_NUM_STEPS):
        result = env.step(generator.uniform(-1.0, 1.0, env.action_dim).astype(np.float32))
        rewards.append(result.reward)
        ends.append(result.terminated or (result.truncated and not bootstrap))
        if result.terminated or result.truncated:
            env.reset(len(rewards))
    return discounted_returns(rewards, ends, discount)


def discounted_returns(rewards: list[float], ends: list[bool], discount: float) -> np.ndarray:
    """The discounted sum of the rewards from each step on, up to the end of the MDP.

    A time limit does not end the sum: as with bootstrapping it continues, with the next episode's
    first step, and after the last step with the first.

    >>> discounted_returns([-1.0] * 50, [False] * 50, 0.99)[[0, -1]].round(6)
    array([-100., -100.])
    """
    factors = [discount * (not end) for end in ends]

    def backwards(behind: float) -> np.ndarray:
        sums = []
        for reward, factor in zip(reversed(rewards), reversed(factors), strict=True):
            behind = reward + factor * behind
            sums.append(behind)
        return np.array(sums[::-1])

    sums, lost = backwards(0.0), 1.0 - float(np.prod(factors))
    if lost < _ROUNDING:  # without a discount or an end, the sum in the long run has no bound
        return sums
    return backwards(float(sums[0]) / lost)


def round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50, ... that is not below `value`; 1 for 0."""
    if value <= 0.0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power >= value))
