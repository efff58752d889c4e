"""The critics of SAC and most of its successors: target parameters follow the online ones."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Array

from dime.critics.critics import CriticNetworkConfig, Critics
from dime.critics.heads import HeadConfig, ValueHead
from dime.errors import require_rate
from dime.networks.initializers import Start, lecun
from dime.networks.layers import Mlp
from dime.types import EnvSpec


@dataclass(frozen=True)
class TargetCriticConfig(CriticNetworkConfig):
    """The critics and their target parameters."""

    target_rate: float = 0.005
    """Polyak rate of the target parameters, per update, in (0, 1]."""

    def __post_init__(self):
        super().__post_init__()
        require_rate(self, "target_rate")

    def make(
        self,
        spec: EnvSpec,
        head: ValueHead,
        activation: Callable[[Array], Array],
        start: Start = lecun,
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
