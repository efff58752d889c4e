"""CrossQ's critics: perceptrons with batch renormalisation, two of them side by side.

No target network: current and next pairs pass through one batch in training mode and share its
statistics (Bhatt et al. 2024; DIME section 4.4).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from dime.critics.head_config import HeadConfig, HeadName
from dime.errors import require_at_least, require_positive, require_unit_interval
from dime.networks.batch_renorm import WARMUP_CALLS
from dime.networks.batch_renorm_mlp import BatchRenormMlp, Stats
from dime.types import EnvSpec


@dataclass(frozen=True)
class CrossQCriticConfig:
    """The two critics, whatever their head."""

    hidden_dim: int = 2048
    """Width of the hidden layers (paper, table 2)."""
    num_hidden_layers: int = 2
    """Hidden layers (paper, table 2)."""
    num_critics: int = 2
    """Critics, combined into one wherever one number is needed."""
    learning_rate: float = 3e-4
    """Of Adam (paper, table 2)."""
    adam_b1: float = 0.5
    """Adam's decay of the first moment, in [0, 1) (released code)."""
    renorm_warmup_updates: int = WARMUP_CALLS
    """Critic updates with plain batch normalisation before renormalisation (released code)."""

    def __post_init__(self):
        require_at_least(self, 1, "hidden_dim", "num_hidden_layers", "num_critics")
        require_at_least(self, 0, "renorm_warmup_updates")
        require_positive(self, "learning_rate")
        require_unit_interval(self, "adam_b1")

    def make_optimizer(self) -> optax.GradientTransformation:
        """Adam."""
        return optax.adam(self.learning_rate, b1=self.adam_b1)


@dataclass(frozen=True)
class CriticConfig(CrossQCriticConfig, HeadConfig):
    """The two critics and their head."""

    head: HeadName = "categorical"
    """`categorical` is the paper's distributional Q; `scalar` its ablation (figures 8 and 9)."""

    def __post_init__(self):
        CrossQCriticConfig.__post_init__(self)
        HeadConfig.__post_init__(self)


class JointCritics(NamedTuple):
    """The critics, their running statistics (stacked alike), and the optimiser's state."""

    online: BatchRenormMlp
    stats: Stats
    optimizer: Any

    @classmethod
    def start(
        cls, config: CrossQCriticConfig, output_dim: int, spec: EnvSpec, key: Key[Array, ""]
    ) -> "JointCritics":
        """Before training."""
        online, stats = init_critics(config, output_dim, spec, key)
        parameters: Any = online
        return cls(online, stats, config.make_optimizer().init(parameters))


def init_critics(
    config: CrossQCriticConfig, output_dim: int, spec: EnvSpec, key: Key[Array, ""]
) -> tuple[BatchRenormMlp, Stats]:
    """`config.num_critics` critics and their statistics, stacked along a leading axis."""
    hidden = [config.hidden_dim] * config.num_hidden_layers
    sizes = (spec.obs_dim + spec.action_dim, *hidden, output_dim)

    def init(critic_key):
        critic = BatchRenormMlp(sizes, config.renorm_warmup_updates, critic_key)
        return critic, critic.initial_stats()

    return jax.vmap(init)(jax.random.split(key, config.num_critics))


def joint_outputs(
    critics: BatchRenormMlp,
    stats: Stats,
    pairs: Float[Array, "batch in_dim"],
    next_pairs: Float[Array, "batch in_dim"],
) -> tuple[Float[Array, "critics batch out"], Float[Array, "critics batch out"], Stats]:
    """One training pass over current and next pairs together: their outputs, the new statistics."""
    batch = jnp.concatenate([pairs, next_pairs])
    outputs, stats = jax.vmap(lambda c, s: c.train(batch, s))(critics, stats)
    current, following = jnp.split(outputs, 2, axis=1)
    return current, following, stats


def evaluate_critics(
    critics: BatchRenormMlp, stats: Stats, pairs: Float[Array, "*batch in_dim"]
) -> Float[Array, "critics *batch out"]:
    """Every critic's output in evaluation mode."""
    return jax.vmap(lambda c, s: c(pairs, s))(critics, stats)
