"""The temperature: the weight of the entropy against the return."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dime.errors import require, require_positive, require_unit_interval
from dime.optimizers import gradient_step


@dataclass(frozen=True)
class LearntTemperatureConfig:
    """The temperature, and how it is learnt."""

    initial: float = 1.0
    """Initial temperature, in units of reward per nat (released code)."""
    learn: bool = True
    """If off, the initial value is kept (DIME, figure 2a-b)."""
    learning_rate: float = 1e-3
    """Adam's learning rate for the log temperature (paper, table 2)."""
    adam_b1: float = 0.9
    """Adam's decay rate of the first moment, in [0, 1)."""

    def __post_init__(self):
        require_positive(self, "initial", "learning_rate")
        require_unit_interval(self, "adam_b1")

    def make_optimizer(self) -> optax.GradientTransformation:
        """Adam on the log temperature."""
        return optax.adam(self.learning_rate, b1=self.adam_b1)


@dataclass(frozen=True)
class TemperatureConfig(LearntTemperatureConfig):
    """DIME's temperature: drives the running cost to a target."""

    target_running_cost_per_dim: float = 4.0
    """Target of the mean running cost, in nats per action dimension (paper, table 2: 4).
    It excludes the prior's share of the log density, -2.335 for prior_std 2.5, so 4 aims at an
    entropy bound of -1.665 nats per dimension (SAC: -1)."""

    def __post_init__(self):
        super().__post_init__()
        _require_finite(self, "target_running_cost_per_dim")


@dataclass(frozen=True)
class EntropyTemperatureConfig(LearntTemperatureConfig):
    """SAC's temperature: drives the entropy to a target."""

    learning_rate: float = 3e-4
    """Adam's learning rate for the log temperature."""
    target_entropy_per_dim: float = -1.0
    """Target of the policy's entropy, in nats per action dimension (SAC: -1)."""

    def __post_init__(self):
        super().__post_init__()
        _require_finite(self, "target_entropy_per_dim")


def _require_finite(config: object, name: str) -> None:
    value = getattr(config, name)
    require(abs(value) < float("inf"), f"{name} is {value}; it must be finite.")


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
    log_temperature: Float[Array, ""],
    cost: Float[Array, "*batch"],
    target: float,
) -> Float[Array, ""]:
    """Falls when the temperature rises while the cost exceeds its target (DIME eq. 28).

    The cost is the log density, `target` minus the target entropy, in nats for the whole action.
    DIME's released code takes the running cost, which leaves out the prior draw's constant share of
    the log density.
    """
    return -jnp.exp(log_temperature) * (cost.mean() - target)


def log_temperature_loss(
    log_temperature: Float[Array, ""],
    cost: Float[Array, "*batch"],
    target: float,
) -> Float[Array, ""]:
    """The same with the log temperature as the factor, as SAC's later codes and DACER have it."""
    return -log_temperature * (cost.mean() - target)
