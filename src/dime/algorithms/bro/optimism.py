"""BRO's exploring actor: it seeks where the critics hope for much and disagree."""

from collections.abc import Callable
from math import log
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from dime.algorithms.bro.optimistic import OptimismConfig, OptimisticShift
from dime.policies.tanh_gaussian import TanhGaussian
from dime.types import EnvSpec, Metrics
from dime.updates.gradient_step import descend


class Explorer(NamedTuple):
    """The exploring actor, the two weights of its loss (unbounded), and their optimisers."""

    shift: OptimisticShift
    optimizer: Any
    raw_weights: Float[Array, " two"]
    weight_optimizer: Any

    @classmethod
    def start(cls, config: OptimismConfig, spec: EnvSpec, key: Key[Array, ""]) -> "Explorer":
        """Before training."""
        shift: Any = OptimisticShift(config, spec, key)
        weights = (config.initial_optimism, config.initial_divergence_weight)
        raw = jnp.stack([unbounded(weight) for weight in weights])
        optimizers = config.make_optimizer(), _weight_optimizer(config)
        return cls(shift, optimizers[0].init(shift), raw, optimizers[1].init(raw))

    def law(self, obs: Float[Array, "*batch obs"], law: TanhGaussian) -> TanhGaussian:
        """The law of the exploring action, from the other actor's."""
        return self.shift.moved(law, self.shift(obs, law.mean))


def explore_step(
    config: OptimismConfig,
    explorer: Explorer,
    obs: Float[Array, "batch obs"],
    law: TanhGaussian,
    outputs_of: Callable[[Array], Array],
    key: Key[Array, ""],
) -> tuple[Explorer, Metrics]:
    """The explorer after one step; `law` is the other actor's, `outputs_of` the critics'.

    It maximises the mean of two critics plus `optimism` times half their distance, output by
    output, minus `divergence_weight` times its divergence from the other actor, which is taken
    with equal standard deviations and before the squashing (Nauman et al. 2024).
    """
    optimism, divergence_weight = bounded(explorer.raw_weights)

    def loss(shift: OptimisticShift):
        distance = shift(obs, law.mean)
        outputs = outputs_of(shift.moved(law, distance).sample(key).action)
        spread = 0.5 * jnp.abs(outputs[0] - outputs[1])
        hoped_for = (outputs.mean(axis=0) + optimism * spread).mean()
        divergence = (0.5 * (distance / jnp.exp(law.log_std)) ** 2).sum(axis=-1).mean()
        return divergence_weight * divergence - hoped_for, divergence / distance.shape[-1]

    shift, optimizer, descent = descend(
        config.make_optimizer(), loss, explorer.optimizer, explorer.shift
    )
    excess = descent.told - config.target_divergence_per_dim

    def weight_loss(raw):
        new_optimism, new_divergence_weight = bounded(raw)
        return (new_optimism - new_divergence_weight) * excess, None

    raw, weight_optimizer, _ = descend(
        _weight_optimizer(config), weight_loss, explorer.weight_optimizer, explorer.raw_weights
    )
    return Explorer(shift, optimizer, raw, weight_optimizer), {
        "exploration_loss": descent.loss,
        "exploration_divergence_per_dim": descent.told,
        "optimism": optimism,
        "divergence_weight": divergence_weight,
    }


def _weight_optimizer(config: OptimismConfig) -> optax.GradientTransformation:
    return optax.adam(config.weight_learning_rate, b1=0.5)


def bounded(raw: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Onto (e^-10, e^7.5): `exp(-10 + 8.75 (1 + tanh(raw)))`."""
    return jnp.exp(-10.0 + 8.75 * (1.0 + jnp.tanh(raw)))


def unbounded(value: float) -> Float[Array, ""]:
    """The number that `bounded` maps to `value`.

    >>> round(float(unbounded(0.25)), 5)
    -0.01558
    """
    return jnp.arctanh(jnp.float32((log(value) + 10.0) / 8.75 - 1.0))
