"""CrossQ's critics: batch renormalisation instead of target parameters (Bhatt et al. 2024)."""

from dataclasses import dataclass

from dime.critics.critics import CriticNetworkConfig, Critics
from dime.critics.heads import Head, HeadConfig, HeadName
from dime.errors import require_at_least
from dime.networks.batch_renorm import WARMUP_CALLS, BatchRenormMlp
from dime.types import EnvSpec


@dataclass(frozen=True)
class CrossQCriticConfig(CriticNetworkConfig):
    """The critics, whatever their head."""

    hidden_dim: int = 2048
    """Width of the hidden layers (paper, table 2)."""
    adam_b1: float = 0.5
    """Adam's decay rate of the first moment, in [0, 1) (released code)."""
    renorm_warmup_updates: int = WARMUP_CALLS
    """Critic updates before batch renormalisation replaces plain batch norm (released code)."""

    def __post_init__(self):
        super().__post_init__()
        require_at_least(self, 0, "renorm_warmup_updates")

    def make(self, spec: EnvSpec, head: Head) -> Critics:
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
    """The critics and their head."""

    head: HeadName = "categorical"
    """`categorical` is the paper's distributional Q; `scalar` its ablation (figures 8 and 9)."""
