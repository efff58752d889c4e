"""What a critic's last layer means: its value, its Bellman target, its loss.

Three heads: categorical (C51, Bellemare et al. 2017; DIME section 4.4), quantile (BRO) and scalar
(the others, and DIME's ablation without distributional Q, appendix G); DACER's Gaussian one is in
`algorithms/dacer`. Outputs carry a leading axis of critics.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dime.errors import Checked, DimeError, NonNegative, at_least, require
from dime.types import Metrics, Transition

HeadName: TypeAlias = Literal["categorical", "scalar"]
_LOG_OFFSET = 1e-15  # released code: ln(p + 1e-15)


class SoftBackup(NamedTuple):
    """What turns the next state's value into a target: `reward + discount * (Q' - entropy_cost)`.

    `discount` is 0 where the MDP ended; `entropy_cost` is temperature * log_prob of the next
    action, in units of reward.
    """

    reward: Float[Array, " batch"]
    discount: Float[Array, " batch"]
    entropy_cost: Float[Array, " batch"]

    @classmethod
    def of(
        cls,
        transition: Transition,
        discount: float,
        entropy_cost: Float[Array, " batch"] | float = 0.0,
    ) -> "SoftBackup":
        """Of a batch; without an entropy, the plain backup. A time limit does not end the MDP."""
        cost = jnp.broadcast_to(entropy_cost, transition.reward.shape)
        return cls(transition.reward, discount * (1.0 - transition.terminated), cost)


class Head(ABC):
    """The meaning of a critic's output, its target and its loss."""

    @property
    @abstractmethod
    def output_dim(self) -> int:
        """Width of the critic's last layer."""

    @abstractmethod
    def value(self, output: Float[Array, "*batch out"]) -> Float[Array, "*batch"]:
        """Q, in units of return."""

    def combined_value(self, output: Float[Array, "critics *batch out"]) -> Float[Array, "*batch"]:
        """Q as policies see it: here the mean over the critics (DIME appendix D; BRO)."""
        return self.value(output).mean(axis=0)

    @abstractmethod
    def target(self, next_output: Float[Array, "critics batch out"], backup: SoftBackup) -> Array:
        """The regression target that all critics share, made from all of them."""

    def target_metrics(
        self, next_output: Float[Array, "critics batch out"], backup: SoftBackup
    ) -> Metrics:
        """Metrics of the target before it is fitted to the support; none without a support."""
        return {}

    @abstractmethod
    def loss(
        self, output: Float[Array, "critics batch out"], target: Array
    ) -> tuple[Float[Array, ""], Metrics]:
        """Mean over the batch, summed over the critics; and the loss's own metrics."""


@dataclass(frozen=True)
class CategoricalHead(Head):
    """A distribution over `num_atoms` returns evenly spaced on [v_min, v_max]."""

    num_atoms: int
    v_min: float
    v_max: float
    entropy_weight: float

    @property
    def output_dim(self) -> int:
        """One logit per atom."""
        return self.num_atoms

    @property
    def atoms(self) -> Float[Array, " atoms"]:
        """The returns that the logits stand for."""
        return jnp.linspace(self.v_min, self.v_max, self.num_atoms)

    def value(self, output: Float[Array, "*batch atoms"]) -> Float[Array, "*batch"]:
        """The distribution's mean."""
        return jax.nn.softmax(output) @ self.atoms

    def target(
        self, next_output: Float[Array, "critics batch atoms"], backup: SoftBackup
    ) -> Float[Array, "batch atoms"]:
        """The next distribution, averaged over the critics, moved and projected on the atoms.

        DIME eq. 21 for each atom, clipped to the support. Projecting the average equals averaging
        the projections.
        """
        probs, moved = self._moved(next_output, backup)
        return self.project(probs, jnp.clip(moved, self.v_min, self.v_max))

    def target_metrics(
        self, next_output: Float[Array, "critics batch atoms"], backup: SoftBackup
    ) -> Metrics:
        """The share of the mass outside of the support, and the range of the means before clipping.

        `target_clipped_mass_of_returns` is the share outside of it without the entropy's term.
        """
        probs, moved = self._moved(next_output, backup)
        returns = backup.reward[:, None] + backup.discount[:, None] * self.atoms

        def share_outside(positions: Float[Array, "batch atoms"]) -> Float[Array, ""]:
            outside = (positions < self.v_min) | (positions > self.v_max)
            return (probs * outside).sum(axis=-1).mean()

        means = (probs * moved).sum(axis=-1)
        return {
            "target_clipped_mass": share_outside(moved),
            "target_clipped_mass_of_returns": share_outside(returns),
            "target_low": means.min(),
            "target_high": means.max(),
        }

    def _moved(
        self, next_output: Float[Array, "critics batch atoms"], backup: SoftBackup
    ) -> tuple[Float[Array, "batch atoms"], Float[Array, "batch atoms"]]:
        probs = jax.nn.softmax(next_output).mean(axis=0)
        future = self.atoms - backup.entropy_cost[:, None]
        return probs, backup.reward[:, None] + backup.discount[:, None] * future

    def project(
        self, probs: Float[Array, "batch atoms"], positions: Float[Array, "batch atoms"]
    ) -> Float[Array, "batch atoms"]:
        """Splits each mass linearly between the two atoms nearest its position in the support.

        A hat function around each atom instead of a scatter: the same numbers, twenty times
        faster on a CPU.
        """
        spacing = (self.v_max - self.v_min) / (self.num_atoms - 1)
        place = (positions - self.v_min) / spacing
        distance = jnp.abs(place[:, :, None] - jnp.arange(self.num_atoms))
        return jnp.einsum("bi,bij->bj", probs, jnp.clip(1.0 - distance, 0.0, 1.0))

    def loss(
        self, output: Float[Array, "critics batch atoms"], target: Float[Array, "batch atoms"]
    ) -> tuple[Float[Array, ""], Metrics]:
        """Cross-entropy minus `entropy_weight` times the entropy (DIME appendix D)."""
        probs = jax.nn.softmax(output)
        log_probs = jnp.log(probs + _LOG_OFFSET)
        cross_entropy = -(target * log_probs).sum(axis=-1).mean(axis=-1)
        entropy = -(probs * log_probs).sum(axis=-1).mean(axis=-1)
        metrics = {
            "critic_entropy": entropy.mean(),
            "target_end_mass": (target[:, 0] + target[:, -1]).mean(),
        }
        return (cross_entropy - self.entropy_weight * entropy).sum(), metrics


def smallest(values: Float[Array, "critics *batch"], axis: int = 0) -> Float[Array, "*batch"]:
    """The minimum over the critics, with a gradient for the critic that has it.

    The gradient of `jnp.min` compares values with their minimum; where a compiler computes them
    twice and rounds differently, none is equal and the gradient is NaN.
    """
    index = jnp.expand_dims(values.argmin(axis=axis), axis)
    return jnp.take_along_axis(values, index, axis=axis).squeeze(axis)


@dataclass(frozen=True)
class ScalarHead(Head):
    """A plain Q value and its squared Bellman residual, times `weight` (DIME eq. 24: half).

    `combine` makes one number of the critics' values, along the first axis: `smallest` in SAC and
    most others; `jnp.mean` is our reading of DIME's ablation, for which the paper does not say.
    """

    combine: Callable[..., Array] = jnp.mean
    weight: float = 0.5

    @property
    def output_dim(self) -> int:
        """One number."""
        return 1

    def value(self, output: Float[Array, "*batch 1"]) -> Float[Array, "*batch"]:
        """The number itself."""
        return output[..., 0]

    def combined_value(self, output: Float[Array, "critics *batch 1"]) -> Float[Array, "*batch"]:
        """The critics' values, combined."""
        return self.combine(self.value(output), axis=0)

    def target(
        self, next_output: Float[Array, "critics batch 1"], backup: SoftBackup
    ) -> Float[Array, " batch"]:
        """The soft backup of the combined value."""
        next_value = self.combined_value(next_output)
        return backup.reward + backup.discount * (next_value - backup.entropy_cost)

    def loss(
        self, output: Float[Array, "critics batch 1"], target: Float[Array, " batch"]
    ) -> tuple[Float[Array, ""], Metrics]:
        """The weighted squared residual, summed over the critics."""
        residual = self.value(output) - target
        return self.weight * (residual**2).mean(axis=-1).sum(), {}


@dataclass(frozen=True)
class QuantileHead(Head):
    """`num_quantiles` quantiles of the return, at the midpoints of equal shares (QR-DQN)."""

    num_quantiles: int

    @property
    def output_dim(self) -> int:
        """One number per quantile."""
        return self.num_quantiles

    def value(self, output: Float[Array, "*batch quantiles"]) -> Float[Array, "*batch"]:
        """The quantiles' mean."""
        return output.mean(axis=-1)

    def target(
        self, next_output: Float[Array, "critics batch quantiles"], backup: SoftBackup
    ) -> Float[Array, "batch quantiles"]:
        """The soft backup of each quantile, averaged over the critics quantile by quantile."""
        future = next_output.mean(axis=0) - backup.entropy_cost[:, None]
        return backup.reward[:, None] + backup.discount[:, None] * future

    def loss(
        self,
        output: Float[Array, "critics batch quantiles"],
        target: Float[Array, "batch quantiles"],
    ) -> tuple[Float[Array, ""], Metrics]:
        """Quantile Huber loss (Dabney et al. 2018, eq. 10, threshold 1).

        Summed over the critics and their quantiles, averaged over the target's and the batch.
        """
        shares = (jnp.arange(self.num_quantiles) + 0.5) / self.num_quantiles
        error = target[:, None, :] - output[..., :, None]
        huber = jnp.where(jnp.abs(error) < 1.0, 0.5 * error**2, jnp.abs(error) - 0.5)
        weight = jnp.abs(shares[:, None] - (error < 0.0))
        return (weight * huber).mean(axis=-1).sum(axis=-1).mean(axis=-1).sum(), {}


@dataclass(frozen=True)
class HeadConfig(Checked):
    """A critic's head, and the support of a categorical one."""

    head: HeadName = "scalar"
    """`scalar`, or `categorical` for the variants of figure 8."""
    v_min: float | None = None
    """Lower end of the support of returns (paper, appendix E: -200 on DMC, -1600 on Gym, -3600 on
    MyoSuite; presets set these). None: it must still be given."""
    v_max: float | None = None
    """Upper end of the support (paper, appendix E: 200, 1600, 3600)."""
    num_atoms: Annotated[int, at_least(2)] = 101
    """Number of atoms, at least 2. The paper's tables say 100; the released code uses 101."""
    entropy_weight: NonNegative = 0.005
    """Weight of the value distribution's entropy in the loss, at least 0 (paper, appendix D)."""

    def __post_init__(self):
        super().__post_init__()
        low = -float("inf") if self.v_min is None else self.v_min
        high = float("inf") if self.v_max is None else self.v_max
        given = [bound for bound in (self.v_min, self.v_max) if bound is not None]
        require(
            low < high and all(abs(bound) < float("inf") for bound in given),
            f"The critic's support [{self.v_min}, {self.v_max}] is empty or not finite; "
            "v_min must be below v_max.",
        )

    def make_head(self, combine: Callable[..., Array] = jnp.mean, weight: float = 0.5) -> Head:
        """The head that `head` names; a categorical one ignores both arguments."""
        if self.head == "scalar":
            return ScalarHead(combine, weight)
        if self.v_min is None or self.v_max is None:
            raise DimeError("The categorical critic needs a support: give v_min and v_max.")
        return CategoricalHead(self.num_atoms, self.v_min, self.v_max, self.entropy_weight)
