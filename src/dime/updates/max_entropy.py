"""Losses that make a policy exp(Q / temperature), and the temperature: the entropy's weight."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from dime.errors import Checked, Finite, Fraction, Positive
from dime.optimizers import gradient_step
from dime.types import Sample

Value: TypeAlias = Callable[[Array, Array], Array]
"""(obs, action) to one number from all critics."""
Objective: TypeAlias = Callable[..., tuple[Array, Sample]]
"""(policy, obs, key, value, temperature) to the loss and the samples that it was made from."""


def reverse_kl(
    policy: Any,
    obs: Float[Array, "batch obs"],
    key: Key[Array, ""],
    value: Value,
    temperature: Float[Array, ""],
) -> tuple[Float[Array, ""], Sample]:
    """SAC's objective, through the sample (a whole chain in DIME's eq. 27)."""
    sample = policy.sample(obs, key)
    q = value(obs, sample.action)
    return max_entropy_policy_loss(sample.log_prob, q, temperature), sample


def log_variance_over(num_chains: int) -> Objective:
    """The objective over several chains of each state (DIME section 6)."""

    def log_variance(policy, obs, key, value, temperature):
        repeated = jnp.broadcast_to(obs, (num_chains, *obs.shape))
        sample = policy.sample_detached(repeated, key)
        q = value(repeated, sample.action)
        return log_variance_policy_loss(sample.log_prob, q, temperature), sample

    return log_variance


def max_entropy_policy_loss(
    log_prob: Float[Array, "*batch"], value: Float[Array, "*batch"], temperature: Float[Array, ""]
) -> Float[Array, ""]:
    """`mean[temperature * log_prob - Q]` (SAC; DIME eq. 27)."""
    return (temperature * log_prob - value).mean()


def log_variance_policy_loss(
    log_prob: Float[Array, "chains batch"],
    value: Float[Array, "chains batch"],
    temperature: Float[Array, ""],
) -> Float[Array, ""]:
    """Half the variance of `log_prob - Q / temperature` over the chains of each state.

    0 where the policy is exp(Q / temperature) up to a factor per state (Richter et al. 2020; DIME
    section 6). Over the chains of one state and not over states, whose factors differ.
    The paths must carry no gradient; the value and the temperature are held fixed here.
    """
    log_target = jax.lax.stop_gradient(value / temperature)
    return 0.5 * (log_prob - log_target).var(axis=0).mean()


@dataclass(frozen=True)
class LearntTemperatureConfig(Checked):
    """The temperature, and how it is learnt."""

    initial: Positive = 1.0
    """Initial temperature, in units of reward per nat."""
    learn: bool = True
    """If off, the initial value is kept."""
    learning_rate: Positive = 3e-4
    """Adam's learning rate for the log temperature."""
    adam_b1: Fraction = 0.9
    """Adam's decay rate of the first moment, in [0, 1)."""

    def make_optimizer(self) -> optax.GradientTransformation:
        """Adam on the log temperature."""
        return optax.adam(self.learning_rate, b1=self.adam_b1)


@dataclass(frozen=True)
class TemperatureConfig(LearntTemperatureConfig):
    """DIME's temperature: drives the running cost to a target."""

    initial: Positive = 1.0
    """Initial temperature, in units of reward per nat (released code)."""
    learn: bool = True
    """If off, the initial value is kept (paper, figure 2a-b)."""
    learning_rate: Positive = 1e-3
    """Adam's learning rate for the log temperature (paper, table 2)."""
    target_running_cost_per_dim: Finite = 4.0
    """Target of the mean running cost, in nats per action dimension (paper, table 2: 4).
    It excludes the prior's share of the log density, -2.335 for prior_std 2.5, so 4 aims at an
    entropy bound of -1.665 nats per dimension (SAC: -1)."""


@dataclass(frozen=True)
class EntropyTemperatureConfig(LearntTemperatureConfig):
    """SAC's temperature: drives the entropy to a target."""

    target_entropy_per_dim: Finite = -1.0
    """Target of the policy's entropy, in nats per action dimension (SAC: -1)."""


class Temperature(NamedTuple):
    """The temperature's logarithm and its optimiser's state."""

    log_value: Float[Array, ""]
    optimizer: Any

    @classmethod
    def start(cls, config: LearntTemperatureConfig) -> "Temperature":
        """As it is before training."""
        log_value = jnp.log(jnp.float32(config.initial))
        return cls(log_value, config.make_optimizer().init(log_value))

    @property
    def value(self) -> Float[Array, ""]:
        """In units of reward per nat."""
        return jnp.exp(self.log_value)

    def step(
        self, config: LearntTemperatureConfig, loss: Callable[[Array], Array]
    ) -> "Temperature":
        """After one optimiser step on `loss(log_value)`; unchanged where it is not learnt."""
        if not config.learn:
            return self
        gradient = jax.grad(loss)(self.log_value)
        optimizer = config.make_optimizer()
        log_value, state, _ = gradient_step(optimizer, gradient, self.optimizer, self.log_value)
        return Temperature(log_value, state)


def temperature_loss(
    log_temperature: Float[Array, ""], cost: Float[Array, "*batch"], target: float
) -> Float[Array, ""]:
    """Falls when the temperature rises while the cost exceeds its target (DIME eq. 28).

    The cost is the log density, `target` minus the target entropy, in nats for the whole action.
    DIME's released code takes the running cost, which leaves out the prior draw's constant share of
    the log density.
    """
    return -jnp.exp(log_temperature) * (cost.mean() - target)


def log_temperature_loss(
    log_temperature: Float[Array, ""], cost: Float[Array, "*batch"], target: float
) -> Float[Array, ""]:
    """The same with the log temperature as the factor, as SAC's later codes and DACER have it."""
    return -log_temperature * (cost.mean() - target)
