"""BRO's exploring actor: it seeks where the critics hope for much and disagree."""

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Annotated, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from dime.algorithms.bro.networks import BRO_START, BroTrunk
from dime.errors import Count, NonNegative, Positive, within
from dime.networks.layers import Dense, orthogonal_with
from dime.optimizers import OptimizerConfig, descend
from dime.policies.tanh_gaussian import TanhGaussian
from dime.types import EnvSpec, Metrics, Sample


@dataclass(frozen=True)
class BroNetConfig(OptimizerConfig):
    """A residual network and its optimiser, Adam with decoupled weight decay."""

    hidden_dim: Count = 256
    """Width of the hidden layers."""
    num_blocks: Count = 1
    """Number of residual blocks."""
    weight_decay: NonNegative = 1e-4
    """Decoupled weight decay, multiplied by the learning rate."""


def _in_bounds(weight: float) -> bool:
    return 0.0 < weight and -10.0 < log(weight) < 7.5


Weight = Annotated[float, within(_in_bounds, "in (e^-10, e^7.5)")]


@dataclass(frozen=True)
class OptimismConfig(BroNetConfig):
    """The optimistic actor, and the two weights that keep it close to the policy."""

    std_multiplier: Positive = 0.75
    """Its standard deviation, relative to the policy's."""
    initial_optimism: Weight = 1.0
    """Initial weight of the critics' disagreement, in (e^-10, e^7.5)."""
    initial_divergence_weight: Weight = 0.25
    """Initial weight of the divergence from the policy, in (e^-10, e^7.5)."""
    target_divergence_per_dim: Positive = 0.05
    """Target of the divergence for both weights, in nats per action dimension."""
    weight_learning_rate: Positive = 3e-5
    """Adam's learning rate for the two weights."""


class BroPolicy(eqx.Module):
    """Mean and bounded log standard deviation, -10 to 2, from one residual network."""

    trunk: BroTrunk
    mean: Dense
    raw_log_std: Dense

    def __init__(self, config: BroNetConfig, spec: EnvSpec, key: Key[Array, ""]):
        trunk_key, mean_key, std_key = jax.random.split(key, 3)
        width = config.hidden_dim
        self.trunk = BroTrunk(spec.obs_dim, width, config.num_blocks, trunk_key)
        self.mean = Dense(width, spec.action_dim, mean_key, BRO_START)
        self.raw_log_std = Dense(width, spec.action_dim, std_key, orthogonal_with(1.0))

    def distribution(self, obs: Float[Array, "*batch obs"]) -> TanhGaussian:
        """The distribution of the action."""
        features = self.trunk(obs)
        log_std = -10.0 + 6.0 * (1.0 + jnp.tanh(self.raw_log_std(features)))
        return TanhGaussian(self.mean(features), log_std)

    def sample(self, obs: Float[Array, "*batch obs"], key: Key[Array, ""]) -> Sample:
        """One action per observation and its exact log density, in nats."""
        return self.distribution(obs).sample(key)

    def deterministic(self, obs: Float[Array, "*batch obs"]) -> Float[Array, "*batch act"]:
        """The mode's action."""
        return self.distribution(obs).mode()


class OptimisticShift(eqx.Module):
    """How far the exploring actor's mean is from the other's, before the squashing."""

    trunk: BroTrunk
    kernel: Float[Array, "width act"]
    std_multiplier: float = eqx.field(static=True)

    def __init__(self, config: OptimismConfig, spec: EnvSpec, key: Key[Array, ""]):
        trunk_key, output_key = jax.random.split(key)
        in_dim, width = spec.obs_dim + spec.action_dim, config.hidden_dim
        self.trunk = BroTrunk(in_dim, width, config.num_blocks, trunk_key)
        self.kernel, _ = orthogonal_with(0.01)(output_key, width, spec.action_dim)
        self.std_multiplier = config.std_multiplier

    def __call__(
        self, obs: Float[Array, "*batch obs"], mean: Float[Array, "*batch act"]
    ) -> Float[Array, "*batch act"]:
        """The shift of this mean."""
        return self.trunk(jnp.concatenate([obs, mean], axis=-1)) @ self.kernel

    def moved(self, policy: TanhGaussian, distance: Float[Array, "*batch act"]) -> TanhGaussian:
        """The exploring actor's distribution."""
        return TanhGaussian(policy.mean + distance, policy.log_std + log(self.std_multiplier))


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

    def distribution(self, obs: Float[Array, "*batch obs"], policy: TanhGaussian) -> TanhGaussian:
        """The distribution of the exploring action, from the other actor's."""
        return self.shift.moved(policy, self.shift(obs, policy.mean))


def explore_step(
    config: OptimismConfig,
    explorer: Explorer,
    obs: Float[Array, "batch obs"],
    policy: TanhGaussian,
    outputs_of: Callable[[Array], Array],
    key: Key[Array, ""],
) -> tuple[Explorer, Metrics]:
    """The explorer after one step.

    `policy` is the other actor's distribution, `outputs_of` gives the critics' outputs.
    It maximises the mean of two critics plus `optimism` times half their distance, output by
    output, minus `divergence_weight` times its divergence from the other actor, which is taken
    with equal standard deviations and before the squashing (Nauman et al. 2024).
    """
    optimism, divergence_weight = bounded(explorer.raw_weights)

    def loss(shift: OptimisticShift):
        distance = shift(obs, policy.mean)
        outputs = outputs_of(shift.moved(policy, distance).sample(key).action)
        spread = 0.5 * jnp.abs(outputs[0] - outputs[1])
        hoped_for = (outputs.mean(axis=0) + optimism * spread).mean()
        divergence = (0.5 * (distance / jnp.exp(policy.log_std)) ** 2).sum(axis=-1).mean()
        return divergence_weight * divergence - hoped_for, divergence / distance.shape[-1]

    shift, optimizer, descent = descend(
        config.make_optimizer(), loss, explorer.optimizer, explorer.shift
    )
    excess = descent.aux - config.target_divergence_per_dim

    def weight_loss(raw):
        new_optimism, new_divergence_weight = bounded(raw)
        return (new_optimism - new_divergence_weight) * excess, None

    raw, weight_optimizer, _ = descend(
        _weight_optimizer(config), weight_loss, explorer.weight_optimizer, explorer.raw_weights
    )
    return Explorer(shift, optimizer, raw, weight_optimizer), {
        "exploration_loss": descent.loss,
        "exploration_divergence_per_dim": descent.aux,
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
