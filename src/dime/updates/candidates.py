"""Choosing among several actions for one observation."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float


def best_of(
    obs: Float[Array, "candidates *batch obs"],
    actions: Float[Array, "candidates *batch act"],
    value: Callable[[Array, Array], Array],
) -> Float[Array, "*batch act"]:
    """The action of the largest `value(obs, actions)` for each observation.

    `obs` is each observation repeated, once for each of its candidates.
    """
    best = value(obs, actions).argmax(axis=0)
    return jnp.take_along_axis(actions, best[None, ..., None], axis=0)[0]
