"""Parameters with their optimiser: one config for every network, one way to take a step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from dime.errors import Checked, Count, Fraction, NonNegative, Positive, require_positive


@dataclass(frozen=True)
class OptimizerConfig(Checked):
    """Adam, and how far a gradient is trusted."""

    learning_rate: Positive = 3e-4
    """Adam's learning rate."""
    adam_b1: Fraction = 0.9
    """Adam's decay rate of the first moment, in [0, 1)."""
    adam_epsilon: Positive = 1e-8
    """Adam's epsilon, added to the root of the second moment."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay, multiplied by the learning rate."""
    max_gradient: float | None = None
    """Clip each entry of the gradient to +- this value; None: no clipping."""
    max_gradient_norm: float | None = None
    """Clip the gradient to this global norm; None: no clipping."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("max_gradient", "max_gradient_norm"):
            if getattr(self, name) is not None:
                require_positive(self, name)

    def make_optimizer(
        self, schedule: optax.Schedule | None = None
    ) -> optax.GradientTransformation:
        """Adam after the clips; `schedule` replaces a constant learning rate."""
        rate = self.learning_rate if schedule is None else schedule
        b1, epsilon = self.adam_b1, self.adam_epsilon
        steps: list[optax.GradientTransformation] = [
            optax.adamw(rate, b1=b1, eps=epsilon, weight_decay=self.weight_decay)
            if self.weight_decay > 0.0
            else optax.adam(rate, b1=b1, eps=epsilon)
        ]
        if self.max_gradient_norm is not None:
            steps.insert(0, optax.clip_by_global_norm(self.max_gradient_norm))
        if self.max_gradient is not None:
            steps.insert(0, optax.clip(self.max_gradient))
        return steps[0] if len(steps) == 1 else optax.chain(*steps)


@dataclass(frozen=True)
class NetworkConfig(OptimizerConfig):
    """A perceptron's hidden layers and its optimiser."""

    hidden_dim: Count = 256
    """Width of the hidden layers."""
    num_hidden_layers: Count = 2
    """Number of hidden layers."""

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return (self.hidden_dim,) * self.num_hidden_layers


class Descent(NamedTuple):
    """What a step was made from: the loss, the raw gradient's norm, and the loss's `aux`."""

    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    aux: Any

    def metrics(self, of: str = "policy") -> dict[str, Float[Array, ""]]:
        """Loss and gradient norm `of` something, under the names of the records."""
        return {f"{of}_loss": self.loss, f"{of}_gradient_norm": self.gradient_norm}


class TrainState(NamedTuple):
    """A module and its optimiser's state."""

    module: Any
    optimizer: Any

    @classmethod
    def start(cls, module: Any, optimizer: optax.GradientTransformation) -> "TrainState":
        """Before the first step."""
        return cls(module, optimizer.init(module))

    def descend(
        self, optimizer: optax.GradientTransformation, loss: Callable[[Any], tuple[Array, Any]]
    ) -> tuple["TrainState", Descent]:
        """After one step on `loss(module) -> (value, aux)`."""
        module, state, descent = descend(optimizer, loss, self.optimizer, self.module)
        return TrainState(module, state), descent


def gradient_step(
    optimizer: optax.GradientTransformation, gradient: PyTree, state: Any, parameters: PyTree
) -> tuple[PyTree, Any, Float[Array, ""]]:
    """The parameters and the optimiser's state after one step, and the raw gradient's norm."""
    updates, state = optimizer.update(gradient, state, parameters)
    # As a product, not as a sum of squares: XLA would write the squares that Adam needs too to
    # memory, instead of computing them where they are used.
    highest = jax.lax.Precision.HIGHEST
    squares = [jnp.vdot(leaf, leaf, precision=highest) for leaf in jax.tree.leaves(gradient)]
    return optax.apply_updates(parameters, updates), state, jnp.sqrt(jnp.stack(squares).sum())


def descend(
    optimizer: optax.GradientTransformation,
    loss: Callable[[Any], tuple[Float[Array, ""], Any]],
    state: Any,
    parameters: Any,
) -> tuple[Any, Any, Descent]:
    """The parameters and the optimiser's state after one step on `loss(parameters)`.

    `loss` returns its value and anything else worth keeping (`aux`).
    """
    (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(parameters)
    parameters, state, norm = gradient_step(optimizer, gradient, state, parameters)
    return parameters, state, Descent(value, norm, aux)
