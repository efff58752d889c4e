"""One step of an optimiser."""

from typing import Any

import optax
from jaxtyping import Array, Float, PyTree


def gradient_step(
    optimizer: optax.GradientTransformation, gradient: PyTree, state: Any, parameters: PyTree
) -> tuple[PyTree, Any, Float[Array, ""]]:
    """The parameters and the optimiser's state after one step, and the raw gradient's norm."""
    updates, state = optimizer.update(gradient, state, parameters)
    return optax.apply_updates(parameters, updates), state, optax.tree.norm(gradient)
