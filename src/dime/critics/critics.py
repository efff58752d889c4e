"""How critics are evaluated and trained, in one pass or two, with target parameters or without."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from dime.critics.heads import HeadConfig, HeadName, SoftBackup
from dime.errors import Count, Fraction, Rate, Whole
from dime.networks.batch_renorm import WARMUP_CALLS, BatchRenormMlp
from dime.networks.layers import Mlp, Start, lecun
from dime.optimizers import Descent, NetworkConfig, descend
from dime.types import EnvSpec, Metrics, Transition


class CriticState(NamedTuple):
    """Critics stacked along a leading axis, with their optimiser's state.

    `stats` are the running statistics of normalising networks, `slow` the target parameters; None
    if there are none.
    """

    online: Any
    optimizer: Any
    stats: Any = None
    slow: Any = None

    def outputs(
        self, obs: Float[Array, "*batch obs"], action: Float[Array, "*draws act"]
    ) -> Float[Array, "critics *draws out"]:
        """Every critic's output in evaluation mode; see `critic_outputs`."""
        return critic_outputs(self.online, obs, action, self.stats)

    def descend(
        self, optimizer: optax.GradientTransformation, loss: Callable[[Any], tuple[Array, Any]]
    ) -> tuple["CriticState", Descent]:
        """After one step of the online critics on `loss(online) -> (value, aux)`."""
        online, state, descent = descend(optimizer, loss, self.optimizer, self.online)
        return self._replace(online=online, optimizer=state), descent


@dataclass(frozen=True)
class Critics:
    """What an algorithm does with its critics.

    `make(key)` makes one network; a network with `initial_stats` normalises by batch statistics,
    and current and next pairs then share one pass in training mode (Bhatt et al. 2024; DIME
    section 4.4). With `target_rate` None there are no target parameters. `head` is a `Head`; if
    `step` is not used, `output_dim` and `combined_value` suffice.
    """

    make: Callable[[Key[Array, ""]], Any]
    num_critics: int
    head: Any
    optimizer: optax.GradientTransformation
    target_rate: float | None = None

    def start(self, key: Key[Array, ""]) -> CriticState:
        """Before training; target parameters begin as the online ones are."""
        online = jax.vmap(self.make)(jax.random.split(key, self.num_critics))
        normalises = hasattr(online, "initial_stats")
        stats = jax.vmap(lambda one: one.initial_stats())(online) if normalises else None
        slow = None if self.target_rate is None else jax.tree.map(jnp.copy, online)
        return CriticState(online, self.optimizer.init(online), stats, slow)

    def value(
        self,
        critics: CriticState,
        obs: Float[Array, "*batch obs"],
        action: Float[Array, "*draws act"],
    ) -> Float[Array, "*draws"]:
        """Q(s, a) in evaluation mode, one number from all critics, in units of return."""
        return self.head.combined_value(critics.outputs(obs, action))

    def slow_value(
        self,
        critics: CriticState,
        obs: Float[Array, "*batch obs"],
        action: Float[Array, "*draws act"],
    ) -> Float[Array, "*draws"]:
        """The same by the target parameters."""
        return self.head.combined_value(critic_outputs(critics.slow, obs, action))

    def step(
        self,
        critics: CriticState,
        transition: Transition,
        next_action: Float[Array, "batch act"],
        backup: SoftBackup,
    ) -> tuple[CriticState, Metrics]:
        """After one step towards the backup of `next_action`; target parameters stay."""

        def loss(online):
            return self.loss(online, critics, transition, next_action, backup)

        critics, descent = critics.descend(self.optimizer, loss)
        stats, metrics = descent.aux
        return critics._replace(stats=stats), metrics | descent.metrics("critic")

    def loss(
        self,
        online: Any,
        critics: CriticState,
        transition: Transition,
        next_action: Float[Array, "batch act"],
        backup: SoftBackup,
    ) -> tuple[Float[Array, ""], tuple[Any, Metrics]]:
        """The loss of `online`, and `(statistics, metrics)`.

        Only the finished target is held fixed: in a joint pass gradients do flow through the batch
        statistics, to which the next pairs contribute (DIME eqs. 21, 24).
        """
        stats = None
        if critics.stats is None:
            outputs = critic_outputs(online, transition.obs, transition.action)
            next_outputs = critic_outputs(critics.slow, transition.next_obs, next_action)
        else:
            outputs, next_outputs, stats = joint_outputs(
                online, critics.stats, transition, next_action
            )
        target = jax.lax.stop_gradient(self.head.target(next_outputs, backup))
        loss, metrics = self.head.loss(outputs, target)
        fixed, next_fixed = jax.lax.stop_gradient((outputs, next_outputs))
        metrics |= {"q_mean": self.head.value(fixed).mean()}
        return loss, (stats, metrics | self.head.target_metrics(next_fixed, backup))

    def follow(self, critics: CriticState) -> CriticState:
        """After the target parameters have moved towards the online ones."""
        if self.target_rate is None:
            return critics
        return critics._replace(slow=follow(critics.slow, critics.online, self.target_rate))


def critic_outputs(
    critics: Any,
    obs: Float[Array, "*batch obs"],
    action: Float[Array, "*draws act"],
    stats: Any = None,
) -> Float[Array, "critics *draws out"]:
    """Every critic's output; `action` may lead with an axis of draws for each observation."""
    obs = jnp.broadcast_to(obs, (*action.shape[:-1], obs.shape[-1]))
    pairs = jnp.concatenate([obs, action], axis=-1)
    if stats is None:
        return jax.vmap(lambda critic: critic(pairs))(critics)
    return jax.vmap(lambda critic, running: critic(pairs, running))(critics, stats)


def joint_outputs(
    critics: Any, stats: Any, transition: Transition, next_action: Float[Array, "batch act"]
) -> tuple[Float[Array, "critics batch out"], Float[Array, "critics batch out"], Any]:
    """One training pass over current and next pairs together: their outputs, the new statistics."""
    pairs = jnp.concatenate([transition.obs, transition.action], axis=-1)
    next_pairs = jnp.concatenate([transition.next_obs, next_action], axis=-1)
    batch = jnp.concatenate([pairs, next_pairs])
    outputs, stats = jax.vmap(lambda critic, running: critic.train(batch, running))(critics, stats)
    current, next_outputs = jnp.split(outputs, 2, axis=1)
    return current, next_outputs, stats


def follow(slow: Any, online: Any, rate: float) -> Any:
    """A copy moved towards the online parameters: `(1 - rate) * slow + rate * online`."""
    return optax.incremental_update(online, slow, rate)


@dataclass(frozen=True)
class CriticNetworkConfig(NetworkConfig):
    """The networks of the critics and their optimiser."""

    num_critics: Count = 2
    """Number of critics; the head combines their values."""

    def sizes(self, spec: EnvSpec, output_dim: int) -> tuple[int, ...]:
        """Widths of a critic, from the pair of observation and action to the output."""
        return (spec.obs_dim + spec.action_dim, *self.hidden, output_dim)


@dataclass(frozen=True)
class TargetCriticConfig(CriticNetworkConfig):
    """The critics of SAC and most of its successors, with target parameters."""

    target_rate: Rate = 0.005
    """Polyak rate of the target parameters, per update, in (0, 1]."""

    def make(
        self, spec: EnvSpec, head: Any, activation: Callable[[Array], Array], start: Start = lecun
    ) -> Critics:
        """Perceptrons for an environment of the given sizes."""
        sizes = self.sizes(spec, head.output_dim)
        return Critics(
            make=lambda key: Mlp(sizes, activation, key, start),
            num_critics=self.num_critics,
            head=head,
            optimizer=self.make_optimizer(),
            target_rate=self.target_rate,
        )


@dataclass(frozen=True)
class HeadedTargetCriticConfig(TargetCriticConfig, HeadConfig):
    """The same, with a plain value or a distribution of returns."""


@dataclass(frozen=True)
class CrossQCriticConfig(CriticNetworkConfig):
    """CrossQ's critics, with batch renormalisation instead of target parameters."""

    hidden_dim: Count = 2048
    """Width of the hidden layers."""
    adam_b1: Fraction = 0.5
    """Adam's decay rate of the first moment, in [0, 1) (released code)."""
    renorm_warmup_updates: Whole = WARMUP_CALLS
    """Critic updates before batch renormalisation replaces plain batch norm (released code)."""

    def make(self, spec: EnvSpec, head: Any) -> Critics:
        """The critics for an environment of the given sizes."""
        sizes = self.sizes(spec, head.output_dim)
        return Critics(
            make=lambda key: BatchRenormMlp(sizes, self.renorm_warmup_updates, key),
            num_critics=self.num_critics,
            head=head,
            optimizer=self.make_optimizer(),
        )


@dataclass(frozen=True)
class CriticConfig(CrossQCriticConfig, HeadConfig):
    """DIME's critics and their head."""

    hidden_dim: Count = 2048
    """Width of the hidden layers (paper, table 2)."""
    head: HeadName = "categorical"
    """`categorical` is the paper's distributional Q; `scalar` its ablation (figures 8 and 9)."""
