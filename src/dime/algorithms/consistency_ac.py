"""Consistency-AC online (Ding & Jin, ICLR 2024).

Diffusion-QL with a consistency model as its policy, as its authors' code has it: exploration,
critics, averaged copy and the loss (the value alone; online nothing is cloned) are the same.
"""

from dataclasses import dataclass, field

from dime.algorithms.algorithm import Algorithm
from dime.algorithms.diffusion_ql import (
    AveragedPolicyConfig,
    DiffusionQlConfig,
    diffusion_ql,
    network_evaluations,
)
from dime.errors import require_at_least
from dime.policies.consistency import ConsistencyPolicy
from dime.types import EnvSpec


@dataclass(frozen=True, kw_only=True)
class ConsistencyPolicyConfig(AveragedPolicyConfig):
    """The consistency model, its network, and the averaged copy."""

    num_denoising_steps: int = 5
    """Network evaluations per action, at least 1 (released code)."""
    num_noise_levels: int = 40
    """Noise levels of the loss that clones behaviour, at least 2 (our choice; the released offline
    code lets it rise from 2 to 150 again and again)."""

    def __post_init__(self):
        super().__post_init__()
        require_at_least(self, 2, "num_noise_levels")

    def make(self, spec: EnvSpec, key) -> ConsistencyPolicy:
        """The policy at the start of training."""
        denoiser = self.denoiser(spec, key)
        return ConsistencyPolicy(denoiser, self.num_denoising_steps, self.num_noise_levels)


@dataclass(frozen=True)
class ConsistencyAcConfig(DiffusionQlConfig):
    """Everything that Consistency-AC depends on; the defaults are DIME's table 2."""

    policy: ConsistencyPolicyConfig = field(default_factory=ConsistencyPolicyConfig)


CONSISTENCY_AC = Algorithm(
    name="consistency-ac",
    paper="Ding & Jin, ICLR 2024",
    year=2024,
    policy="consistency model",
    critic="scalar x2, target networks",
    make=diffusion_ql,
    config=ConsistencyAcConfig,
    network_evaluations=network_evaluations,
    modes=("softmax_of_n", "stochastic", "deterministic", "best_of_n"),
)
