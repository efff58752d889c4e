"""The temperature: the weight of the entropy against the return."""

from dataclasses import dataclass

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dime.errors import require, require_positive


@dataclass(frozen=True)
class TemperatureConfig:
    """The temperature and what it is driven to."""

    initial: float = 1.0
    """At the start, in units of reward per nat (released code)."""
    learn: bool = True
    """Off: the temperature stays as it started (paper, figure 2a-b)."""
    target_running_cost_per_dim: float = 4.0
    """Where the mean running cost is driven, in nats per action dimension (paper, table 2: 4).
    The prior's share of the log density is left out of it; with prior_std 2.5 that share is -2.335,
    so 4 aims at an entropy bound of -1.665 nats per dimension (SAC's habit: -1)."""
    learning_rate: float = 1e-3
    """Of Adam on the log temperature (paper, table 2)."""

    def __post_init__(self):
        require_positive(self, "initial", "learning_rate")
        require(
            abs(self.target_running_cost_per_dim) < float("inf"),
            f"target_running_cost_per_dim is {self.target_running_cost_per_dim}; "
            "it must be finite.",
        )

    def make_optimizer(self) -> optax.GradientTransformation:
        """Adam on the log temperature."""
        return optax.adam(self.learning_rate)


def temperature_loss(
    log_temperature: Float[Array, ""],
    running_cost: Float[Array, " batch"],
    target: float,
) -> Float[Array, ""]:
    """Falls when the temperature rises while the running cost exceeds its target (DIME eq. 28).

    `target` in nats for the whole action. DIME's released code drives the running cost, which
    leaves out the prior draw's constant share of the log density.
    """
    return -jnp.exp(log_temperature) * (running_cost.mean() - target)
