"""The compiled programs of a run: one dispatch per env step, all seeds in it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from dime.training.config import TrainingConfig
from dime.training.random_keys import Stream, derive
from dime.training.replay import Replay, Storage, empty_replay, sample_batch, store
from dime.types import Agent, AlgorithmState, Counters, EnvSpec, Metrics, Transition


class Learned(NamedTuple):
    """What one env step's updates leave behind. All leaves lead with the axis of seeds.

    `metrics` are those of the last update; `finite` says of every metric (sorted by name) whether
    it is finite in all of the step's updates.
    """

    state: AlgorithmState
    metrics: Metrics
    finite: Bool[Array, "seeds metrics"]


class Advanced(NamedTuple):
    """What `advance` leaves behind. All leaves lead with the axis of seeds."""

    replay: Replay
    learned: Learned
    action: Float[Array, "seeds act"]


class Turn(NamedTuple):
    """What one env step of every seed brings to the program, besides what it keeps."""

    transition: Transition
    next_obs: Float[Array, "seeds obs"]  # to act on: a reset's where the episode ended
    keys: Key[Array, " seeds"]
    at: Counters


class EvaluationTurn(NamedTuple):
    """What one step of all episodes of an evaluation brings to the program."""

    obs: Float[Array, "seeds episodes obs"]
    episodes: Int[Array, " episodes"]  # their numbers in the evaluation
    step: Int[Array, ""]  # in the episodes
    keys: Key[Array, " seeds"]
    at: Counters


def evaluation_turn(obs: Any, first_episode: int, step: int, keys: Any, at: Counters) -> Any:
    """The turn of episodes `first_episode`, `first_episode + 1`, ..."""
    episodes = np.arange(first_episode, first_episode + obs.shape[1], dtype=np.int32)
    return EvaluationTurn(obs, episodes, np.int32(step), keys, at)  # pyright: ignore[reportArgumentType]


def counters(env_step: int, update: int) -> Counters:
    """Counters as the programs take them."""
    return Counters(np.int32(env_step), np.int32(update))  # pyright: ignore[reportArgumentType]


def seed_keys(seeds: tuple[int, ...]) -> Key[Array, " seeds"]:
    """The random key that everything of a seed's run is derived from."""
    return jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))


_ALGORITHMS = {
    "float32": "F32_F32_F32",
    "tensorfloat32": "TF32_TF32_F32",
    "bfloat16": "BF16_BF16_F32",
}


def matmul_precision(config: TrainingConfig, platform: str) -> AbstractContextManager[Any]:
    """Inside, matrix products are traced as the config says.

    Without it JAX computes with TensorFloat32 on newer GPUs. A CPU has float32 alone.
    """
    if platform == "cpu":
        return nullcontext()
    return jax.default_matmul_precision(_ALGORITHMS[config.matmul_precision])


def compile_program(
    config: TrainingConfig, function: Callable[..., Any], *arguments: Any, donated: Any = ()
) -> Any:
    """The program of a function for arguments of these shapes; it takes the donated ones over."""
    with matmul_precision(config, jax.default_backend()):
        return jax.jit(function, donate_argnums=donated).lower(*arguments).compile()


def over_seeds(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function` for every seed, where all arguments lead with the axis of seeds.

    One seed alone goes without that axis: products over an axis of length one cost a CPU twice the
    time (the update at dog-run's sizes: 0.3 to 0.4 of the machine's matrix-product rate, 0.7
    without it).
    """
    if jax.tree.leaves(arguments)[0].shape[0] == 1:
        one = function(*jax.tree.map(lambda leaf: leaf[0], arguments))
        return jax.tree.map(lambda leaf: leaf[None], one)
    return jax.vmap(function)(*arguments)


def initialise(agent: Agent, keys: Key[Array, " seeds"]) -> AlgorithmState:
    """The algorithm's state of every seed before training."""
    return over_seeds(lambda key: agent.init(derive(key, Stream.INIT)), keys)


def initialise_replay(storage: Storage, spec: EnvSpec, num_seeds: int) -> Replay:
    """An empty ring for every seed."""
    one = jax.eval_shape(lambda: empty_replay(storage, spec))
    return jax.tree.map(lambda leaf: jnp.zeros((num_seeds, *leaf.shape), leaf.dtype), one)


def store_all(replay: Replay, transition: Transition, at: Counters) -> Replay:
    """Every seed's newest transition put into its ring."""
    return jax.vmap(store, in_axes=(0, 0, None))(replay, transition, at.env_step - 1)


def random_actions(
    keys: Key[Array, " seeds"], at: Counters, action_dim: int
) -> Float[Array, "seeds act"]:
    """Uniform actions of the first steps."""

    def draw(key):
        key = derive(key, Stream.RANDOM_ACTION, at.env_step)
        return jax.random.uniform(key, (action_dim,), minval=-1.0, maxval=1.0)

    return over_seeds(draw, keys)


def explore(
    agent: Agent, state: AlgorithmState, obs: Float[Array, "seeds obs"], keys, at: Counters
) -> Float[Array, "seeds act"]:
    """Every seed's next action in the training environment."""

    def act(state, obs, key):
        return agent.act["explore"](state, obs, derive(key, Stream.EXPLORE, at.env_step), at)

    return over_seeds(act, state, obs, keys)


def evaluation_actions(
    agent: Agent, mode: str, state: AlgorithmState, turn: EvaluationTurn
) -> Float[Array, "seeds episodes act"]:
    """Actions in an evaluation's episodes, each with random numbers of its own.

    An episode is the same however many are played beside it.
    """
    mode_number, at = sorted(agent.act).index(mode), turn.at

    def act_in_all(state, obs, key):
        key = derive(key, Stream.EVALUATION, mode_number, at.env_step, turn.step)

        def act(obs, episode):
            return agent.act[mode](state, obs, jax.random.fold_in(key, episode), at)

        return jax.vmap(act)(obs, turn.episodes)

    return over_seeds(act_in_all, state, turn.obs, turn.keys)


def learn(
    agent: Agent,
    config: TrainingConfig,
    state: AlgorithmState,
    replay: Replay,
    keys: Key[Array, " seeds"],
    at: Counters,
) -> Learned:
    """The updates of an env step, each with a minibatch of its own.

    `at` counts this env step, whose transition is the newest in the replay, and the updates before
    it. The counters carry no seed axis, so that what an algorithm makes depend on them stays a
    branch.
    """
    num_updates = config.updates_per_turn

    def draw(replay, key):
        keys = jax.random.split(derive(key, Stream.BATCH, at.env_step), num_updates)
        return jax.vmap(sample_batch, in_axes=(None, None, None, 0))(
            replay, at.env_step, config.batch_size * agent.batches_per_update, keys
        )

    def update_on(state, batches, key):
        def one_update(state, inputs):
            batch, number, key = inputs
            return agent.update(state, batch, key, Counters(at.env_step, number))

        keys = jax.random.split(derive(key, Stream.UPDATE, at.env_step), num_updates)
        numbers = at.update + jnp.arange(num_updates)
        # Unrolled by two, XLA keeps the parameters in place instead of copying them each time.
        return jax.lax.scan(one_update, state, (batches, numbers, keys), unroll=2)

    batches = jax.vmap(draw)(replay, keys)
    state, metrics = over_seeds(update_on, state, batches, keys)
    finite = [
        jnp.isfinite(metrics[name].reshape(keys.shape[0], -1)).all(-1) for name in sorted(metrics)
    ]
    last = jax.tree.map(lambda leaf: leaf[:, -1], metrics)
    return Learned(state, last, jnp.stack(finite, axis=-1))


def advance(
    agent: Agent, config: TrainingConfig, state: AlgorithmState, replay: Replay, turn: Turn
) -> Advanced:
    """Stores the transition, learns, acts on `next_obs` (paper, algorithm 1)."""
    replay = store_all(replay, turn.transition, turn.at)
    learned = learn(agent, config, state, replay, turn.keys, turn.at)
    action = explore(agent, learned.state, turn.next_obs, turn.keys, turn.at)
    return Advanced(replay, learned, action)


class Programs:
    """The above, compiled for a number of seeds before the loop begins."""

    def __init__(self, agent: Agent, config: TrainingConfig, spec: EnvSpec, num_seeds: int):
        self.agent, self.config, self.spec = agent, config, spec
        keys = jax.eval_shape(lambda: seed_keys(tuple(range(num_seeds))))
        self.state_shape = jax.eval_shape(partial(initialise, agent), keys)
        replay = jax.eval_shape(lambda: initialise_replay(config.storage, spec, num_seeds))
        turn = jax.eval_shape(partial(_example_turn, spec, num_seeds))
        evaluation = jax.eval_shape(
            partial(_example_evaluation_turn, spec, num_seeds, config.num_evaluation_episodes)
        )

        compiled = partial(compile_program, config)
        state, obs, at = self.state_shape, turn.next_obs, turn.at
        self.store = compiled(store_all, replay, turn.transition, at, donated=0)
        self.random_actions = compiled(
            lambda keys, at: random_actions(keys, at, spec.action_dim), keys, at
        )
        self.explore = compiled(partial(explore, agent), state, obs, keys, at)
        self.evaluate = {
            mode: compiled(partial(evaluation_actions, agent, mode), state, evaluation)
            for mode in config.evaluation_modes
        }
        if config.overlap:  # the replay is only read: `store` needs it afterwards
            self.learn = compiled(partial(learn, agent, config), state, replay, keys, at, donated=0)
        else:
            self.advance = compiled(
                partial(advance, agent, config), state, replay, turn, donated=(0, 1)
            )


def _example_turn(spec: EnvSpec, num_seeds: int) -> Turn:
    obs, scalar = jnp.zeros((num_seeds, spec.obs_dim)), jnp.zeros(num_seeds)
    action = jnp.zeros((num_seeds, spec.action_dim))
    transition = Transition(obs, action, scalar, obs, scalar > 0.0)
    counter = jnp.zeros((), jnp.int32)
    return Turn(transition, obs, seed_keys(tuple(range(num_seeds))), Counters(counter, counter))


def _example_evaluation_turn(spec: EnvSpec, num_seeds: int, num_episodes: int) -> EvaluationTurn:
    counter = jnp.zeros((), jnp.int32)
    return EvaluationTurn(
        obs=jnp.zeros((num_seeds, num_episodes, spec.obs_dim)),
        episodes=jnp.arange(num_episodes, dtype=jnp.int32),
        step=counter,
        keys=seed_keys(tuple(range(num_seeds))),
        at=Counters(counter, counter),
    )
