"""Choosing among several actions for one observation."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def repeat(obs: Float[Array, "*batch obs"], num: int) -> Float[Array, "num *batch obs"]:
    """Each observation `num` times, along a new first axis."""
    return jnp.broadcast_to(obs, (num, *obs.shape))


def best_of(
    actions: Float[Array, "candidates *batch act"], value: Float[Array, "candidates *batch"]
) -> Float[Array, "*batch act"]:
    """The action of the largest value for each observation."""
    return _chosen(actions, value.argmax(axis=0))


def softmax_of(
    actions: Float[Array, "candidates *batch act"],
    value: Float[Array, "candidates *batch"],
    key: Key[Array, ""],
) -> Float[Array, "*batch act"]:
    """An action drawn with probability proportional to exp(value), for each observation."""
    return _chosen(actions, jax.random.categorical(key, value, axis=0))


def _chosen(actions: Array, index: Array) -> Array:
    return jnp.take_along_axis(actions, index[None, ..., None], axis=0)[0]
