"""One step of an optimiser."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

Parameters = TypeVar("Parameters")


class Descent(NamedTuple):
    """What a step was made of: the loss, the raw gradient's norm, and what the loss told."""

    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    told: Any


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
    loss: Callable[[Parameters], tuple[Float[Array, ""], Any]],
    state: Any,
    parameters: Parameters,
) -> tuple[Parameters, Any, Descent]:
    """The parameters and the optimiser's state after one step on `loss`.

    `loss` returns its value and whatever else is to be told of it.
    """
    (value, told), gradient = jax.value_and_grad(loss, has_aux=True)(parameters)
    parameters, state, norm = gradient_step(optimizer, gradient, state, parameters)
    return parameters, state, Descent(value, norm, told)
