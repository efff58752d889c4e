"""The optimiser that most of the compared algorithms train everything with."""

from dataclasses import dataclass

import optax

from dime.errors import require_positive


@dataclass(frozen=True)
class AdamConfig:
    """Adam, and how far a gradient is trusted."""

    learning_rate: float = 3e-4
    """Of Adam."""
    adam_epsilon: float = 1e-8
    """Added to the root of Adam's second moment."""
    max_gradient_norm: float | None = None
    """A longer gradient is scaled down to this norm; None: none is."""

    def __post_init__(self):
        require_positive(self, "learning_rate", "adam_epsilon")
        if self.max_gradient_norm is not None:
            require_positive(self, "max_gradient_norm")

    def make_optimizer(
        self, schedule: optax.Schedule | None = None
    ) -> optax.GradientTransformation:
        """Adam, after scaling a long gradient down where that is asked for.

        `schedule` stands in for a constant learning rate.
        """
        adam = optax.adam(schedule or self.learning_rate, eps=self.adam_epsilon)
        if self.max_gradient_norm is None:
            return adam
        return optax.chain(optax.clip_by_global_norm(self.max_gradient_norm), adam)
