"""The compiled programs of a run whose environments JAX computes: many env steps per dispatch.

A turn is one step of all environments of all seeds: each seed's `envs_per_seed` of them step
together, which makes as many env steps, and then come the updates that belong to these.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from dime.envs.jax_env import JaxTask, reset_task, step_task
from dime.training.device.evaluation import (
    Acting,
    Given,
    begin_playing,
    over_environments,
    play,
)
from dime.training.host.programs import (
    Learned,
    compile_program,
    initialise,
    initialise_replay,
    learn,
    over_seeds,
)
from dime.training.random_keys import Stream, derive
from dime.training.replay import Replay, store
from dime.types import AlgorithmState, Counters, Transition


class Episodes(NamedTuple):
    """The episodes in progress, and the last ones that ended."""

    state: Any
    """The task's own, with the axes of seeds and environments before its own."""
    number: Int[Array, "seeds envs"]
    length: Int[Array, "seeds envs"]
    episode_return: Float[Array, "seeds envs"]
    last_return: Float[Array, "seeds envs"]
    last_length: Int[Array, "seeds envs"]


class Trained(NamedTuple):
    """All that a turn changes."""

    learned: Learned
    """`finite` is that of the newest updates."""
    replay: Replay
    episodes: Episodes
    action: Float[Array, "seeds envs act"]
    at: Counters
    finite: Bool[Array, "seeds quantities"]
    """Of each metric (sorted by name) and of `FINITE_TOO`, as it was at `first_bad_step`."""
    first_bad_step: Int[Array, " seeds"]
    """The env step at which a seed first met something that is not finite; 0 if none."""


FINITE_TOO = ("action", "observation", "reward")


def episode_key(
    key: Key[Array, ""], environment: Int[Array, ""], number: Int[Array, ""]
) -> UInt32[Array, "2"]:
    """The key that a training episode is reset with: that of `PRNGKey(seed)`, seed below 2^31.

    `JaxEnv.reset(seed=...)` begins the same episode.
    """
    seed = jax.random.bits(derive(key, Stream.EPISODE, environment, number)) >> 1
    return jax.random.PRNGKey(seed)


def _reset(task: JaxTask, keys: Key[Array, " seeds"], number: Int[Array, "seeds envs"]) -> Any:
    environments = jnp.arange(number.shape[1])

    def reset_one(key, environment, number):
        return reset_task(task, episode_key(key, environment, number))

    of_a_seed = jax.vmap(reset_one, in_axes=(None, 0, 0))
    return jax.vmap(of_a_seed, in_axes=(0, None, 0))(keys, environments, number)


def first_episodes(task: JaxTask, num_envs: int, keys: Key[Array, " seeds"]) -> Episodes:
    """The first episodes of every seed's environments."""
    shape = (keys.shape[0], num_envs)
    whole, zero = jnp.zeros(shape, jnp.int32), jnp.zeros(shape)
    return Episodes(_reset(task, keys, whole), whole, whole, zero, zero, whole)


def start(given: Given, keys: Key[Array, " seeds"]) -> Trained:
    """Everything as it is before the first step."""
    agent, config = given.agent, given.config
    num_seeds = keys.shape[0]
    state = initialise(agent, keys)
    replay = initialise_replay(config.storage, given.spec, num_seeds)
    at = Counters(jnp.int32(0), jnp.int32(0))
    episodes = first_episodes(given.task, config.envs_per_seed, keys)
    learned = jax.eval_shape(partial(learn, agent, config), state, replay, keys, at)
    metrics = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), learned.metrics)
    num_quantities = len(metrics) + len(FINITE_TOO)
    return Trained(
        learned=Learned(state, metrics, jnp.ones((num_seeds, len(metrics)), bool)),
        replay=replay,
        episodes=episodes,
        action=_actions(given, state, episodes.state.obs, keys, at),
        at=at,
        finite=jnp.ones((num_seeds, num_quantities), bool),
        first_bad_step=jnp.zeros(num_seeds, jnp.int32),
    )


def _actions(
    given: Given,
    state: AlgorithmState,
    obs: Float[Array, "seeds envs obs"],
    keys: Key[Array, " seeds"],
    at: Counters,
) -> Float[Array, "seeds envs act"]:
    """The next action in every environment: random ones first, then the policy's."""
    num_envs = obs.shape[1]

    def spread(key):
        if num_envs == 1:
            return key[None]  # the very key of a run on the host, which acts alike
        return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(num_envs))

    def random(key):
        def draw(key):
            return jax.random.uniform(key, (given.spec.action_dim,), minval=-1.0, maxval=1.0)

        return jax.vmap(draw)(spread(derive(key, Stream.RANDOM_ACTION, at.env_step)))

    def explore(state, obs, key):
        def act(obs, key):
            return given.agent.act["explore"](state, obs, key, at)

        return jax.vmap(act)(obs, spread(derive(key, Stream.EXPLORE, at.env_step)))

    return jax.lax.cond(
        at.env_step < given.config.num_random_steps,
        lambda: over_seeds(random, keys),
        lambda: over_seeds(explore, state, obs, keys),
    )


def _step_environments(
    given: Given,
    keys: Key[Array, " seeds"],
    episodes: Episodes,
    action: Float[Array, "seeds envs act"],
) -> tuple[Episodes, Transition]:
    """A step of every environment; where an episode ends, the next one begins."""
    stepped = over_environments(partial(step_task, given.task), episodes.state, action)
    length = episodes.length + 1
    episode_return = episodes.episode_return + stepped.reward
    terminated = stepped.done.astype(bool)
    ended = terminated | (length >= given.time_limit)
    transition = Transition(
        obs=episodes.state.obs,
        action=action,
        reward=stepped.reward,
        next_obs=stepped.obs,
        terminated=terminated if given.config.bootstrap_at_time_limits else ended,
    )
    number = episodes.number + ended

    def begin_next() -> Any:
        def chosen(new, old):
            return jnp.where(ended.reshape(ended.shape + (1,) * (new.ndim - 2)), new, old)

        return jax.tree.map(chosen, _reset(given.task, keys, number), stepped)

    following = Episodes(
        state=jax.lax.cond(ended.any(), begin_next, lambda: stepped),
        number=number,
        length=jnp.where(ended, 0, length),
        episode_return=jnp.where(ended, 0.0, episode_return),
        last_return=jnp.where(ended, episode_return, episodes.last_return),
        last_length=jnp.where(ended, length, episodes.last_length),
    )
    return following, transition


def turn(given: Given, keys: Key[Array, " seeds"], before: Trained) -> Trained:
    """A step of every environment, the updates that belong to it, the next actions."""
    agent, config = given.agent, given.config
    num_envs = config.envs_per_seed
    at = Counters(before.at.env_step + num_envs, before.at.update)
    episodes, transition = _step_environments(given, keys, before.episodes, before.action)
    numbers = before.at.env_step + jnp.arange(num_envs)
    replay = jax.vmap(store, in_axes=(0, 0, None))(before.replay, transition, numbers)
    due = config.learns_after(at.env_step)
    learned = jax.lax.cond(
        due,
        lambda state: learn(agent, config, state, replay, keys, at),
        lambda state: before.learned._replace(state=state),
        before.learned.state,
    )
    action = _actions(given, learned.state, episodes.state.obs, keys, at)
    seen = jnp.stack([transition.next_obs, episodes.state.obs], axis=1)  # resets' too
    finite = jnp.concatenate(
        [learned.finite, *map(_finite, (action, seen, transition.reward))], axis=1
    )
    first = (before.first_bad_step == 0) & ~finite.all(1)
    return Trained(
        learned=learned,
        replay=replay,
        episodes=episodes,
        action=action,
        at=Counters(at.env_step, at.update + due * config.updates_per_turn),
        finite=jnp.where(first[:, None], finite, before.finite),
        first_bad_step=jnp.where(first, at.env_step, before.first_bad_step),
    )


def _finite(values: Float[Array, "seeds ..."]) -> Bool[Array, "seeds 1"]:
    return jnp.isfinite(values).reshape(values.shape[0], -1).all(1, keepdims=True)


class DevicePrograms:
    """The above, compiled for a number of seeds."""

    def __init__(self, given: Given, keys: Key[Array, " seeds"]):
        config = given.config
        begin, begin_playing_it = partial(start, given), partial(begin_playing, given.task)

        def advance(trained: Trained, keys, num_turns) -> Trained:
            one_turn = partial(turn, given, keys)
            return jax.lax.fori_loop(0, num_turns, lambda _, trained: one_turn(trained), trained)

        compiled = partial(compile_program, config)
        self.shape: Trained = jax.eval_shape(begin, keys)
        count = jax.ShapeDtypeStruct((), jnp.int32)
        seeds = jax.ShapeDtypeStruct((keys.shape[0], config.num_evaluation_episodes), jnp.uint32)
        played = jax.eval_shape(begin_playing_it, seeds)
        acting = Acting(self.shape.learned.state, keys, self.shape.at)
        self.start = compiled(begin, keys)
        self.advance = compiled(advance, self.shape, keys, count, donated=0)
        self.begin_playing = compiled(begin_playing_it, seeds)
        self.play = {
            mode: compiled(partial(play, given, mode), acting, played, count, donated=1)
            for mode in config.evaluation_modes
        }
