"""CrossQ's critics: perceptrons with batch renormalisation, two of them side by side.

No target network: current and next pairs pass through one batch in training mode and share its
statistics (Bhatt et al. 2024; DIME section 4.4).
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from dime.critics.heads import CategoricalHead, Head, ScalarHead
from dime.errors import (
    DimeError,
    require,
    require_at_least,
    require_positive,
    require_unit_interval,
)
from dime.networks.batch_renorm import WARMUP_CALLS
from dime.networks.batch_renorm_mlp import BatchRenormMlp, Stats
from dime.types import EnvSpec

HeadName: TypeAlias = Literal["categorical", "scalar"]


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
class CriticConfig(CrossQCriticConfig):
    """The two critics and their head."""

    head: HeadName = "categorical"
    """`categorical` is the paper's distributional Q; `scalar` its ablation (figures 8 and 9)."""
    v_min: float | None = None
    """Lowest return of the support, in units of reward (paper, appendix E: -200 on DMC, -1600 on
    Gym, -3600 on MyoSuite, which the presets fill in); None where it is still to be given."""
    v_max: float | None = None
    """Highest return of the support (paper, appendix E: 200, 1600, 3600)."""
    num_atoms: int = 101
    """Atoms of the support, at least 2. The paper's tables say 100, the released code uses 101."""
    entropy_weight: float = 0.005
    """Weight of the distribution's entropy in the loss, at least 0 (paper, appendix D)."""

    def __post_init__(self):
        super().__post_init__()
        require_at_least(self, 2, "num_atoms")
        require_at_least(self, 0.0, "entropy_weight")
        require(
            self.head in get_args(HeadName),
            f"head is {self.head!r}; it must be one of: {', '.join(get_args(HeadName))}.",
        )
        low = -float("inf") if self.v_min is None else self.v_min
        high = float("inf") if self.v_max is None else self.v_max
        given = [bound for bound in (self.v_min, self.v_max) if bound is not None]
        require(
            low < high and all(abs(bound) < float("inf") for bound in given),
            f"The critic's support [{self.v_min}, {self.v_max}] is empty or not finite; "
            "v_min must be below v_max.",
        )

    def make_head(self) -> Head:
        """The head that `head` names."""
        if self.head == "scalar":
            return ScalarHead()
        if self.v_min is None or self.v_max is None:
            raise DimeError("The categorical critic needs a support: give v_min and v_max.")
        return CategoricalHead(self.num_atoms, self.v_min, self.v_max, self.entropy_weight)


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
