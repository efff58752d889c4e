"""The compiled programs of a run: one dispatch per env step, all seeds in it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from dime.training.config import TrainingConfig
from dime.training.replay import Replay, empty_replay, sample_batch, store
from dime.types import Agent, AlgorithmState, Counters, EnvSpec, Metrics, Transition


class Stream(IntEnum):
    """What random numbers are for."""

    INIT = 0
    RANDOM_ACTION = 1
    EXPLORE = 2
    BATCH = 3
    UPDATE = 4
    EVALUATION = 5
    EPISODE = 6


def derive(key: Key[Array, ""], stream: Stream, *numbers: Any) -> Key[Array, ""]:
    """The key of a stream at these counters: a run keeps its seeds' keys and no others."""
    for number in (stream, *numbers):
        key = jax.random.fold_in(key, number)
    return key


class Learned(NamedTuple):
    """What one env step's updates leave behind. All leaves lead with the axis of seeds.

    `metrics` are those of the last update, delayed ones of the last that made them, 0 if none did.
    `finite` says of every metric (sorted by name) whether it is finite in all of the step's
    updates.
    """

    state: AlgorithmState
    metrics: Metrics
    finite: Bool[Array, "seeds metrics"]


class StepInputs(NamedTuple):
    """What one env step of every seed brings to the program."""

    transition: Transition
    next_obs: Float[Array, "seeds obs"]  # to act on: a reset's if the episode ended
    keys: Key[Array, " seeds"]
    at: Counters


class EvaluationInputs(NamedTuple):
    """What one step of all episodes of an evaluation brings to the program."""

    obs: Float[Array, "seeds episodes obs"]
    episodes: Int[Array, " episodes"]  # their numbers in the evaluation
    step: Int[Array, ""]  # in the episodes
    keys: Key[Array, " seeds"]
    at: Counters


def evaluation_inputs(obs: Any, first_episode: int, step: int, keys: Any, at: Counters) -> Any:
    """The inputs of episodes `first_episode`, `first_episode + 1`, ..."""
    episodes = np.arange(first_episode, first_episode + obs.shape[1], dtype=np.int32)
    return EvaluationInputs(obs, episodes, np.int32(step), keys, at)  # pyright: ignore[reportArgumentType]


def counters(env_step: int, update: int) -> Counters:
    """Counters as the programs take them."""
    return Counters(np.int32(env_step), np.int32(update))  # pyright: ignore[reportArgumentType]


def seed_keys(seeds: tuple[int, ...]) -> Key[Array, " seeds"]:
    """The random key that everything of a seed's run is derived from."""
    return jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))


_PRECISIONS = {
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
    return jax.default_matmul_precision(_PRECISIONS[config.matmul_precision])


def compile_program(
    config: TrainingConfig, function: Callable[..., Any], *arguments: Any, donated: Any = ()
) -> Any:
    """The program of a function for arguments of these shapes; it takes the donated ones over."""
    with matmul_precision(config, jax.default_backend()):
        return jax.jit(function, donate_argnums=donated).lower(*arguments).compile()


def over_seeds(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function` for every seed; all arguments lead with the axis of seeds.

    One seed alone goes without it: products over an axis of length one cost a CPU twice the time.
    """
    if jax.tree.leaves(arguments)[0].shape[0] == 1:
        one = function(*jax.tree.map(lambda leaf: leaf[0], arguments))
        return jax.tree.map(lambda leaf: leaf[None], one)
    return jax.vmap(function)(*arguments)


def initialise(agent: Agent, keys: Key[Array, " seeds"]) -> AlgorithmState:
    """The algorithm's state of every seed before training."""
    return over_seeds(lambda key: agent.init(derive(key, Stream.INIT)), keys)


def store_all(replay: Replay, transition: Transition, at: Counters) -> Replay:
    """Every seed's newest transition put into its ring."""
    return jax.vmap(store, in_axes=(0, 0, None))(replay, transition, at.env_step - 1)


def _for_each_environment(
    function: Callable[..., Any], key: Key[Array, ""], envs: tuple[int, ...], *arguments: Any
) -> Any:
    """`function(key, *arguments)` for a seed's environment, or for each of several.

    On the host a seed has one, and `envs` is empty. On the device it is their number; a single one
    has the key that it would have on the host.
    """
    if not envs:
        return function(key, *arguments)
    if envs == (1,):
        keys = key[None]
    else:
        keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(envs[0]))
    return jax.vmap(function)(keys, *arguments)


def random_actions(
    keys: Key[Array, " seeds"], at: Counters, shape: tuple[int, ...]
) -> Float[Array, "seeds *envs act"]:
    """Uniform actions of the first steps; `shape` is that of one seed's."""

    def draw(key):
        return jax.random.uniform(key, shape[-1:], minval=-1.0, maxval=1.0)

    def of_a_seed(key):
        key = derive(key, Stream.RANDOM_ACTION, at.env_step)
        return _for_each_environment(draw, key, shape[:-1])

    return over_seeds(of_a_seed, keys)


def explore(
    agent: Agent, state: AlgorithmState, obs: Float[Array, "seeds *envs obs"], keys, at: Counters
) -> Float[Array, "seeds *envs act"]:
    """Every seed's next actions in its training environments."""

    def of_a_seed(state, obs, key):
        key = derive(key, Stream.EXPLORE, at.env_step)
        return _for_each_environment(
            lambda key, obs: agent.act["explore"](state, obs, key, at), key, obs.shape[:-1], obs
        )

    return over_seeds(of_a_seed, state, obs, keys)


def evaluation_actions(
    agent: Agent, mode: str, state: AlgorithmState, inputs: EvaluationInputs
) -> Float[Array, "seeds episodes act"]:
    """Actions in an evaluation's episodes, each with its own random numbers.

    An episode is the same however many are played beside it.
    """
    mode_number, at = sorted(agent.act).index(mode), inputs.at

    def act_in_all(state, obs, key):
        key = derive(key, Stream.EVALUATION, mode_number, at.env_step, inputs.step)

        def act(obs, episode):
            return agent.act[mode](state, obs, jax.random.fold_in(key, episode), at)

        return jax.vmap(act)(obs, inputs.episodes)

    return over_seeds(act_in_all, state, inputs.obs, inputs.keys)


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
    num_updates = config.updates_per_round

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
    if agent.delayed is not None:
        due = agent.delayed.is_due(at.update + jnp.arange(num_updates))
        newest = num_updates - 1 - jnp.argmax(due[::-1])
        last |= {name: metrics[name][:, newest] for name in agent.delayed.metrics}
    return Learned(state, last, jnp.stack(finite, axis=-1))


def advance(
    agent: Agent, config: TrainingConfig, state: AlgorithmState, replay: Replay, inputs: StepInputs
) -> tuple[Replay, Learned, Float[Array, "seeds act"]]:
    """Stores the transition, learns, acts on `next_obs` (paper, algorithm 1)."""
    transition, next_obs, keys, at = inputs
    replay = store_all(replay, transition, at)
    learned = learn(agent, config, state, replay, keys, at)
    action = explore(agent, learned.state, next_obs, keys, at)
    return replay, learned, action


class Programs:
    """The above, compiled for a number of seeds before the loop begins."""

    def __init__(self, agent: Agent, config: TrainingConfig, spec: EnvSpec, num_seeds: int):
        example = partial(_example_inputs, spec, num_seeds, config.num_evaluation_episodes)
        inputs, evaluation = jax.eval_shape(example)
        keys = inputs.keys
        self.state_shape = jax.eval_shape(partial(initialise, agent), keys)
        replay = jax.eval_shape(lambda: empty_replay(config, spec, num_seeds))

        compiled = partial(compile_program, config)
        state, obs, at = self.state_shape, inputs.next_obs, inputs.at
        self.store = compiled(store_all, replay, inputs.transition, at, donated=0)
        self.random_actions = compiled(
            lambda keys, at: random_actions(keys, at, (spec.action_dim,)), keys, at
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
                partial(advance, agent, config), state, replay, inputs, donated=(0, 1)
            )


def _example_inputs(
    spec: EnvSpec, num_seeds: int, num_episodes: int
) -> tuple[StepInputs, EvaluationInputs]:
    """Of an env step and of a step of an evaluation; only their shapes count."""
    keys, at = seed_keys(tuple(range(num_seeds))), counters(0, 0)
    obs, scalar = jnp.zeros((num_seeds, spec.obs_dim)), jnp.zeros(num_seeds)
    action = jnp.zeros((num_seeds, spec.action_dim))
    transition = Transition(obs, action, scalar, obs, scalar > 0.0)
    episodes_obs = jnp.zeros((num_seeds, num_episodes, spec.obs_dim))
    evaluation = evaluation_inputs(episodes_obs, 0, 0, keys, at)
    return StepInputs(transition, obs, keys, at), evaluation
