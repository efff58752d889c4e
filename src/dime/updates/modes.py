"""Evaluation modes that several algorithms have in common."""

from collections.abc import Callable
from typing import TypeAlias

from jaxtyping import Array

from dime.types import Act, AlgorithmState
from dime.updates.candidates import best_of, repeat

Value: TypeAlias = Callable[[AlgorithmState, Array, Array], Array]
"""(state, obs, action) to what the critics make of it."""


def best_of_n(sample: Callable[..., Array], value: Value, num: int) -> Act:
    """The most valued of `num` actions, each drawn by `sample(state, obs, key)`."""

    def act(state, obs, key, counters):
        candidates = repeat(obs, num)
        actions = sample(state, candidates, key)
        return best_of(actions, value(state, candidates, actions))

    return act


def chain_modes(value: Value, num: int) -> dict[str, Act]:
    """The modes of every algorithm whose `state.policy` is a denoising chain.

    A draw of the chain, the noiseless chain from 0, and the most valued of `num` draws.
    """

    def sample(state, obs, key):
        return state.policy.sample(obs, key)

    return {
        "stochastic": lambda state, obs, key, counters: sample(state, obs, key),
        "deterministic": lambda state, obs, key, counters: state.policy.deterministic(obs),
        "best_of_n": best_of_n(sample, value, num),
    }
