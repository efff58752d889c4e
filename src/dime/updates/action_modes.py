"""How an action is chosen: evaluation modes, and choices among several candidates."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dime.types import Act, AlgorithmState

CriticValue: TypeAlias = Callable[[AlgorithmState, Array, Array], Array]
"""(state, obs, action) to one number from all critics."""


def action_modes(
    sample: Callable[..., Array], deterministic: Callable[..., Array], value: CriticValue, num: int
) -> dict[str, Act]:
    """The evaluation modes that all algorithms share.

    `stochastic` draws by `sample(state, obs, key)`, `deterministic` is `deterministic(state, obs)`,
    `best_of_n` takes the most valued of `num` draws.
    """

    def best_of_n(state, obs, key, counters):
        candidates = repeat(obs, num)
        actions = sample(state, candidates, key)
        return best_of(actions, value(state, candidates, actions))

    return {
        "stochastic": lambda state, obs, key, counters: sample(state, obs, key),
        "deterministic": lambda state, obs, key, counters: deterministic(state, obs),
        "best_of_n": best_of_n,
    }


def policy_modes(value: CriticValue, num: int) -> dict[str, Act]:
    """`action_modes` of an algorithm whose `state.policy.module.sample` returns a `Sample`."""
    return action_modes(
        lambda state, obs, key: state.policy.module.sample(obs, key).action,
        lambda state, obs: state.policy.module.deterministic(obs),
        value,
        num,
    )


def chain_modes(value: CriticValue, num: int) -> dict[str, Act]:
    """`action_modes` of an algorithm whose `state.policy.module.sample` returns the actions."""
    return action_modes(
        lambda state, obs, key: state.policy.module.sample(obs, key),
        lambda state, obs: state.policy.module.deterministic(obs),
        value,
        num,
    )


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
