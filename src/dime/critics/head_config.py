"""The choice between a plain Q value and a distribution of returns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import jax.numpy as jnp
from jaxtyping import Array

from dime.critics.heads import CategoricalHead, Head, ScalarHead
from dime.errors import DimeError, require, require_at_least

HeadName: TypeAlias = Literal["categorical", "scalar"]


@dataclass(frozen=True)
class HeadConfig:
    """A critic's head, and the support of a categorical one."""

    head: HeadName = "scalar"
    """`scalar` or, as the variants of figure 8, `categorical`."""
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

    def make_head(self, combine: Callable[..., Array] = jnp.mean, weight: float = 0.5) -> Head:
        """The head that `head` names; the arguments are those of a scalar one."""
        if self.head == "scalar":
            return ScalarHead(combine, weight)
        if self.v_min is None or self.v_max is None:
            raise DimeError("The categorical critic needs a support: give v_min and v_max.")
        return CategoricalHead(self.num_atoms, self.v_min, self.v_max, self.entropy_weight)
