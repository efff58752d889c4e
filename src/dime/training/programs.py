"""The compiled programs of a run: one dispatch per env step, all seeds in it."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from dime.training.config import TrainingConfig
from dime.training.replay import Replay, empty_replay, sample_batch, store
from dime.types import Agent, AlgorithmState, Counters, EnvSpec, Metrics, Transition


class Advanced(NamedTuple):
    """What one env step's updates leave behind. All leaves lead with the axis of seeds."""

    state: AlgorithmState
    replay: Replay
    action: Float[Array, "seeds act"]
    metrics: Metrics
    finite: Bool[Array, " seeds"]


class Turn(NamedTuple):
    """What one env step of every seed brings to the program, besides what it keeps."""

    transition: Transition
    next_obs: Float[Array, "seeds obs"]  # to act on: a reset's where the episode ended
    keys: Key[Array, " seeds"]
    at: Counters


def counters(env_step: int, update: int) -> Counters:
    """Counters as the programs take them."""
    return Counters(np.int32(env_step), np.int32(update))  # pyright: ignore[reportArgumentType]


def seed_keys(seeds: tuple[int, ...]) -> Key[Array, " seeds"]:
    """The random key that everything of a seed's run is derived from."""
    return jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))


# Keys are derived from the seed, a stream and a counter, so that a run needs no key state.
_INIT, _STEP, _RANDOM_ACTION, _EVALUATION = range(4)


def _derive(key: Key[Array, ""], stream: int, *numbers: Any) -> Key[Array, ""]:
    key = jax.random.fold_in(key, stream)
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key


def initialise(agent: Agent, keys: Key[Array, " seeds"]) -> AlgorithmState:
    """The algorithm's state of every seed before training."""
    return jax.vmap(lambda key: agent.init(_derive(key, _INIT)))(keys)


def initialise_replay(capacity: int, spec: EnvSpec, num_seeds: int) -> Replay:
    """An empty ring for every seed."""
    one = jax.eval_shape(lambda: empty_replay(capacity, spec))
    return jax.tree.map(lambda leaf: jnp.zeros((num_seeds, *leaf.shape), leaf.dtype), one)


def store_all(replay: Replay, transition: Transition, at: Counters) -> Replay:
    """Every seed's newest transition put into its ring."""
    return jax.vmap(store, in_axes=(0, 0, None))(replay, transition, at.env_step - 1)


def random_actions(
    keys: Key[Array, " seeds"], at: Counters, action_dim: int
) -> Float[Array, "seeds act"]:
    """Uniform actions of the first steps."""

    def draw(key):
        key = _derive(key, _RANDOM_ACTION, at.env_step)
        return jax.random.uniform(key, (action_dim,), minval=-1.0, maxval=1.0)

    return jax.vmap(draw)(keys)


def explore(
    agent: Agent, state: AlgorithmState, obs: Float[Array, "seeds obs"], keys, at: Counters
) -> Float[Array, "seeds act"]:
    """Every seed's next action in the training environment."""

    def one(state, obs, key):
        _, act_key = jax.random.split(_derive(key, _STEP, at.env_step))
        return agent.act["explore"](state, obs, act_key, at)

    return jax.vmap(one)(state, obs, keys)


def evaluation_actions(
    agent: Agent,
    mode: str,
    state: AlgorithmState,
    obs: Float[Array, "seeds episodes obs"],
    keys,
    at,
) -> Float[Array, "seeds episodes act"]:
    """Actions of an evaluation's episodes; `at` counts env steps, and steps of the episodes."""
    mode_number = sorted(agent.act).index(mode)

    def one(state, obs, key):
        key = _derive(key, _EVALUATION, mode_number, at.env_step, at.update)
        return agent.act[mode](state, obs, key, at)

    return jax.vmap(one)(state, obs, keys)


def advance(
    agent: Agent, config: TrainingConfig, state: AlgorithmState, replay: Replay, turn: Turn
) -> Advanced:
    """Stores the transition, makes the step's updates, acts on `next_obs` (paper, algorithm 1).

    `turn.at` counts this env step and the updates before it. The counters carry no seed axis, so
    that what an algorithm makes depend on them stays a branch.
    """
    at = turn.at

    def one_seed(state, replay, transition, next_obs, key):
        replay = store(replay, transition, at.env_step - 1)
        update_key, act_key = jax.random.split(_derive(key, _STEP, at.env_step))

        def one_update(state, inputs):
            number, key = inputs
            batch_key, key = jax.random.split(key)
            batch = sample_batch(replay, at.env_step, config.batch_size, batch_key)
            return agent.update(state, batch, key, Counters(at.env_step, number))

        numbers = at.update + jnp.arange(config.updates_per_env_step)
        update_keys = jax.random.split(update_key, config.updates_per_env_step)
        state, metrics = jax.lax.scan(one_update, state, (numbers, update_keys))
        finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(metrics)]).all()
        action = agent.act["explore"](state, next_obs, act_key, at)
        last = jax.tree.map(lambda leaf: leaf[-1], metrics)
        return Advanced(state, replay, action, last, finite & jnp.isfinite(action).all())

    return jax.vmap(one_seed)(state, replay, turn.transition, turn.next_obs, turn.keys)


class Programs:
    """The above, compiled for a number of seeds: nothing is compiled inside the loop."""

    def __init__(self, agent: Agent, config: TrainingConfig, spec: EnvSpec, num_seeds: int):
        self.agent, self.config, self.spec = agent, config, spec
        shape: Any = jax.ShapeDtypeStruct
        keys = jax.eval_shape(lambda: seed_keys(tuple(range(num_seeds))))
        self.state_shape = jax.eval_shape(lambda keys: initialise(agent, keys), keys)
        replay = jax.eval_shape(
            lambda: initialise_replay(config.effective_capacity, spec, num_seeds)
        )
        obs = shape((num_seeds, spec.obs_dim), jnp.float32)
        scalar = shape((num_seeds,), jnp.float32)
        transition = Transition(
            obs=obs,
            action=shape((num_seeds, spec.action_dim), jnp.float32),
            reward=scalar,
            next_obs=obs,
            terminated=shape((num_seeds,), jnp.bool),
        )
        at = Counters(shape((), jnp.int32), shape((), jnp.int32))
        episodes = shape((num_seeds, config.num_evaluation_episodes, spec.obs_dim), jnp.float32)

        def compiled(function, *arguments, donated=()):
            return jax.jit(function, donate_argnums=donated).lower(*arguments).compile()

        self.store = compiled(store_all, replay, transition, at, donated=0)
        self.random_actions = compiled(
            lambda keys, at: random_actions(keys, at, spec.action_dim), keys, at
        )
        self.explore = compiled(partial(explore, agent), self.state_shape, obs, keys, at)
        self.evaluate = {
            mode: compiled(
                partial(evaluation_actions, agent, mode), self.state_shape, episodes, keys, at
            )
            for mode in config.evaluation_modes
        }
        self.advance = compiled(
            partial(advance, agent, config),
            *(self.state_shape, replay, Turn(transition, obs, keys, at)),
            donated=(0, 1),
        )
