"""Evaluations whose environments JAX computes: whole episodes in few calls of one program."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from dime.envs.jax_env import JaxTask, reset_task, step_task
from dime.training.config import TrainingConfig
from dime.training.host.evaluation import MAX_EPISODE_STEPS
from dime.training.host.programs import EvaluationTurn, evaluation_actions
from dime.types import Agent, AlgorithmState, Counters, EnvSpec


class Given(NamedTuple):
    """What the programs are made of."""

    task: JaxTask
    time_limit: int
    """Of an episode, in steps."""
    agent: Agent
    config: TrainingConfig
    spec: EnvSpec


class Acting(NamedTuple):
    """The agents of an evaluation."""

    state: AlgorithmState
    keys: Key[Array, " seeds"]
    at: Counters


class Played(NamedTuple):
    """An evaluation in progress. All leaves but `step` lead with (seeds, episodes)."""

    state: Any
    running: Bool[Array, "seeds episodes"]
    episode_return: Float[Array, "seeds episodes"]
    length: Int[Array, "seeds episodes"]
    finite: Bool[Array, "seeds episodes"]
    step: Int[Array, ""]


def over_environments(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function` for every environment of every seed."""
    return jax.vmap(jax.vmap(function))(*arguments)


def begin_playing(task: JaxTask, seeds: UInt32[Array, "seeds episodes"]) -> Played:
    """An evaluation's episodes before their first step."""
    state = over_environments(lambda seed: reset_task(task, jax.random.PRNGKey(seed)), seeds)
    return Played(
        state=state,
        running=jnp.ones(seeds.shape, bool),
        episode_return=jnp.zeros(seeds.shape),
        length=jnp.zeros(seeds.shape, jnp.int32),
        finite=jnp.isfinite(state.obs).all(-1),
        step=jnp.int32(0),
    )


def play(
    given: Given, mode: str, acting: Acting, played: Played, num_steps: Int[Array, ""]
) -> Played:
    """At most `num_steps` more steps of an evaluation's episodes."""
    state, keys, at = acting
    episodes = jnp.arange(played.running.shape[1], dtype=jnp.int32)
    last = played.step + num_steps
    time_limit = min(given.time_limit, MAX_EPISODE_STEPS)

    def step(played: Played) -> Played:
        turn = EvaluationTurn(played.state.obs, episodes, played.step, keys, at)
        action = evaluation_actions(given.agent, mode, state, turn)
        stepped = over_environments(partial(step_task, given.task), played.state, action)
        length = played.length + played.running
        finite = jnp.isfinite(stepped.reward) & jnp.isfinite(stepped.obs).all(-1)
        goes_on = finite & (stepped.done == 0) & (length < time_limit)
        return Played(
            state=stepped,
            running=played.running & goes_on,
            episode_return=played.episode_return + jnp.where(played.running, stepped.reward, 0.0),
            length=length,
            finite=played.finite & (finite | ~played.running),
            step=played.step + 1,
        )

    return jax.lax.while_loop(
        lambda played: played.running.any() & (played.step < last), step, played
    )
