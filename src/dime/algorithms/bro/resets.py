"""Full resets that keep the replay (Nikishin et al. 2022)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, UInt32

from dime.types import Agent, AlgorithmState, Counters


class ResettingState(NamedTuple):
    """An algorithm's state, the key that it began with, and when it last began."""

    current: AlgorithmState
    key_data: UInt32[Array, " words"]
    since: Int[Array, ""]


def with_resets(agent: Agent, env_steps: tuple[int, ...]) -> Agent:
    """The agent, whose whole state returns to its initial values at these env steps.

    Before the first update of such an env step; the replay stays. An env step without updates
    resets nothing. All seeds share the counters, so all are reset at once.
    """
    if not env_steps:
        return agent

    def init(key: Key[Array, ""]) -> ResettingState:
        # A copy, because a key may be used only once.
        data = jax.random.key_data(jax.random.clone(key))
        return ResettingState(agent.init(key), data, jnp.zeros((), jnp.int32))

    def update(state: ResettingState, batch, key, counters: Counters):
        def reset(state: ResettingState) -> ResettingState:
            fresh = agent.init(jax.random.wrap_key_data(state.key_data))
            first = state.since != counters.env_step
            current = jax.tree.map(
                lambda new, old: jnp.where(first, new, old), fresh, state.current
            )
            return state._replace(current=current, since=counters.env_step)

        due = jnp.isin(counters.env_step, jnp.array(env_steps, jnp.int32))
        state = jax.lax.cond(due, reset, lambda state: state, state)
        current, metrics = agent.update(state.current, batch, key, counters)
        return state._replace(current=current), metrics

    def of_current(act):
        return lambda state, obs, key, counters: act(state.current, obs, key, counters)

    act = {mode: of_current(one) for mode, one in agent.act.items()}
    return agent._replace(init=init, act=act, update=update)
