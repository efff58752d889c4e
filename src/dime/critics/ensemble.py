"""The CrossQ critic: an MLP with batch renormalisation, two of them side by side.

No target network: current and next pairs pass through one batch in training mode and share its
statistics (Bhatt et al. 2024; DIME section 4.4).
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import equinox as eqx
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
from dime.networks.batch_renorm import WARMUP_CALLS, BatchRenorm, RunningStats
from dime.networks.dense import Dense, dense_stack
from dime.types import EnvSpec

HeadName: TypeAlias = Literal["categorical", "scalar"]


@dataclass(frozen=True)
class CriticConfig:
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
    hidden_dim: int = 2048
    """Width of the hidden layers (paper, table 2)."""
    num_hidden_layers: int = 2
    """Hidden layers (paper, table 2)."""
    num_critics: int = 2
    """Critics, whose mean is used wherever one number is needed (paper, appendix D)."""
    learning_rate: float = 3e-4
    """Of Adam (paper, table 2)."""
    adam_b1: float = 0.5
    """Adam's decay of the first moment, in [0, 1) (released code)."""
    renorm_warmup_updates: int = WARMUP_CALLS
    """Critic updates with plain batch normalisation before renormalisation (released code)."""

    def __post_init__(self):
        require_at_least(self, 1, "hidden_dim", "num_hidden_layers", "num_critics")
        require_at_least(self, 2, "num_atoms")
        require_at_least(self, 0, "renorm_warmup_updates")
        require_at_least(self, 0.0, "entropy_weight")
        require_positive(self, "learning_rate")
        require_unit_interval(self, "adam_b1")
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

    def make_optimizer(self) -> optax.GradientTransformation:
        """Adam."""
        return optax.adam(self.learning_rate, b1=self.adam_b1)


CriticStats: TypeAlias = tuple[RunningStats, ...]
"""Running statistics of each normalisation layer, from input to output."""


class Critic(eqx.Module):
    """BatchRenorm of `[obs, action]`; Dense, ReLU, BatchRenorm per hidden layer; Dense."""

    norms: tuple[BatchRenorm, ...]
    hidden: tuple[Dense, ...]
    output: Dense

    def __init__(self, config: CriticConfig, spec: EnvSpec, output_dim: int, key: Key[Array, ""]):
        input_dim = spec.obs_dim + spec.action_dim
        widths = (input_dim, *[config.hidden_dim] * config.num_hidden_layers)
        hidden_key, output_key = jax.random.split(key)
        self.norms = tuple(BatchRenorm(width, config.renorm_warmup_updates) for width in widths)
        self.hidden = dense_stack(widths, hidden_key)
        self.output = Dense(widths[-1], output_dim, output_key)

    def initial_stats(self) -> CriticStats:
        """Running statistics before any training call."""
        return tuple(RunningStats.start(norm.scale.shape[-1]) for norm in self.norms)

    def __call__(
        self, x: Float[Array, "*batch in_dim"], stats: CriticStats
    ) -> Float[Array, "*batch out"]:
        """Evaluation mode: the running statistics normalise."""
        x = self.norms[0](x, stats[0])
        for layer, norm, running in zip(self.hidden, self.norms[1:], stats[1:], strict=True):
            x = norm(jax.nn.relu(layer(x)), running)
        return self.output(x)

    def train(
        self, x: Float[Array, "batch in_dim"], stats: CriticStats
    ) -> tuple[Float[Array, "batch out"], CriticStats]:
        """Training mode: the batch's statistics normalise, and move the running ones."""
        x, updated = self.norms[0].train(x, stats[0])
        updated_stats = [updated]
        for layer, norm, running in zip(self.hidden, self.norms[1:], stats[1:], strict=True):
            x, updated = norm.train(jax.nn.relu(layer(x)), running)
            updated_stats.append(updated)
        return self.output(x), tuple(updated_stats)


def init_critics(
    config: CriticConfig, spec: EnvSpec, key: Key[Array, ""]
) -> tuple[Critic, CriticStats]:
    """`config.num_critics` critics and their statistics, stacked along a leading axis."""
    output_dim = config.make_head().output_dim

    def init(critic_key):
        critic = Critic(config, spec, output_dim, critic_key)
        return critic, critic.initial_stats()

    return jax.vmap(init)(jax.random.split(key, config.num_critics))


def joint_outputs(
    critics: Critic,
    stats: CriticStats,
    pairs: Float[Array, "batch in_dim"],
    next_pairs: Float[Array, "batch in_dim"],
) -> tuple[Float[Array, "critics batch out"], Float[Array, "critics batch out"], CriticStats]:
    """One training pass over current and next pairs together: their outputs, the new statistics."""
    batch = jnp.concatenate([pairs, next_pairs])
    outputs, stats = jax.vmap(lambda c, s: c.train(batch, s))(critics, stats)
    current, following = jnp.split(outputs, 2, axis=1)
    return current, following, stats


def evaluate_critics(
    critics: Critic, stats: CriticStats, pairs: Float[Array, "*batch in_dim"]
) -> Float[Array, "critics *batch out"]:
    """Every critic's output in evaluation mode."""
    return jax.vmap(lambda c, s: c(pairs, s))(critics, stats)
