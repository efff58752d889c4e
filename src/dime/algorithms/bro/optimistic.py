"""BRO's two actors: one that the critics are trained on, and one that explores."""

from dataclasses import dataclass
from math import log

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from dime.algorithms.bro.residual import BRO_START, BroTrunk
from dime.errors import require, require_at_least, require_positive
from dime.networks.dense import Dense
from dime.networks.initializers import orthogonal_with
from dime.policies.tanh_gaussian import TanhGaussian
from dime.types import EnvSpec


@dataclass(frozen=True)
class BroNetConfig:
    """A residual network and its optimiser."""

    hidden_dim: int = 256
    """Width of the network."""
    num_blocks: int = 1
    """Residual blocks."""
    learning_rate: float = 3e-4
    """Of Adam with decoupled weight decay."""
    weight_decay: float = 1e-4
    """Share of the parameters taken off in each update, times the learning rate."""

    def __post_init__(self):
        require_at_least(self, 1, "hidden_dim", "num_blocks")
        require_positive(self, "learning_rate")
        require_at_least(self, 0.0, "weight_decay")

    def make_optimizer(self) -> optax.GradientTransformation:
        """Adam with decoupled weight decay."""
        return optax.adamw(self.learning_rate, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class OptimismConfig(BroNetConfig):
    """The actor that explores, and the two weights that keep it near the other one."""

    std_multiplier: float = 0.75
    """Its standard deviation relative to the other actor's."""
    initial_optimism: float = 1.0
    """Weight of the critics' disagreement at the start, in (e^-10, e^7.5)."""
    initial_divergence_weight: float = 0.25
    """Weight of the divergence from the other actor at the start, in (e^-10, e^7.5)."""
    target_divergence_per_dim: float = 0.05
    """Divergence to which both weights drive, in nats per action dimension."""
    weight_learning_rate: float = 3e-5
    """Of Adam on the two weights."""

    def __post_init__(self):
        super().__post_init__()
        require_positive(self, "std_multiplier", "weight_learning_rate")
        require_positive(self, "target_divergence_per_dim")
        for name in ("initial_optimism", "initial_divergence_weight"):
            value = getattr(self, name)
            inside = 0.0 < value and -10.0 < log(value) < 7.5
            require(inside, f"{name} is {value}; it must be in (e^-10, e^7.5).")


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

    def law(self, obs: Float[Array, "*batch obs"]) -> TanhGaussian:
        """The law of the action."""
        features = self.trunk(obs)
        log_std = -10.0 + 6.0 * (1.0 + jnp.tanh(self.raw_log_std(features)))
        return TanhGaussian(self.mean(features), log_std)


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

    def moved(self, law: TanhGaussian, distance: Float[Array, "*batch act"]) -> TanhGaussian:
        """The exploring actor's law."""
        return TanhGaussian(law.mean + distance, law.log_std + log(self.std_multiplier))
