"""Seeds whose environments JAX computes: many env steps in one call of one program.

A round is one step of all environments of all seeds: each seed's `envs_per_seed` of them step
together, which makes as many env steps, and then come the updates that belong to these.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from dime.envs.environment import Environment, NonFiniteError
from dime.envs.jax_env import JaxEnv, JaxTask, reset_task, step_task
from dime.training.checkpoint import Arrays, Checkpoint, EpisodePosition, from_arrays, to_arrays
from dime.training.checkpoint.reader import load_replay
from dime.training.config import TrainingConfig
from dime.training.faults import Event
from dime.training.host.evaluation import MAX_EPISODE_STEPS, EpisodeError, EpisodeResult, Evaluation
from dime.training.host.learners import Learners
from dime.training.host.programs import (
    EvaluationInputs,
    Learned,
    Stream,
    compile_program,
    counters,
    derive,
    evaluation_actions,
    explore,
    initialise,
    learn,
    random_actions,
    seed_keys,
)
from dime.training.replay import Replay, empty_replay, store
from dime.types import Agent, AlgorithmState, Counters, EnvSpec, Metrics, Transition

_CALL_S = 0.25  # about how long one call of a program may take: signals are noticed between calls
_CHECKED = ("action", "observation", "reward")  # to be finite, besides the metrics


class Context(NamedTuple):
    """What the programs are made from."""

    task: JaxTask
    time_limit: int  # of an episode, in steps
    agent: Agent
    config: TrainingConfig
    spec: EnvSpec


class Episodes(NamedTuple):
    """The episodes in progress, and the last ones that ended."""

    state: Any
    """The task's own, with the axes of seeds and environments before its own."""
    number: Int[Array, "seeds envs"]
    length: Int[Array, "seeds envs"]
    episode_return: Float[Array, "seeds envs"]
    last_return: Float[Array, "seeds envs"]
    last_length: Int[Array, "seeds envs"]


class DeviceState(NamedTuple):
    """All that a round changes."""

    learned: Learned
    replay: Replay
    episodes: Episodes
    action: Float[Array, "seeds envs act"]
    at: Counters
    finite: Bool[Array, "seeds quantities"]
    """Of each metric (sorted by name) and of `_CHECKED`, as it was at `first_bad_step`."""
    first_bad_step: Int[Array, " seeds"]
    """The env step at which a seed first met something that is not finite; 0 if none."""


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


def start(context: Context, keys: Key[Array, " seeds"]) -> DeviceState:
    """Everything as it is before the first step."""
    agent, config = context.agent, context.config
    num_seeds = keys.shape[0]
    state = initialise(agent, keys)
    replay = empty_replay(config, context.spec, num_seeds)
    at = Counters(jnp.int32(0), jnp.int32(0))
    episodes = first_episodes(context.task, config.envs_per_seed, keys)
    learned = jax.eval_shape(partial(learn, agent, config), state, replay, keys, at)
    metrics = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), learned.metrics)
    num_quantities = len(metrics) + len(_CHECKED)
    return DeviceState(
        learned=Learned(state, metrics, jnp.ones((num_seeds, len(metrics)), bool)),
        replay=replay,
        episodes=episodes,
        action=_actions(context, state, episodes.state.obs, keys, at),
        at=at,
        finite=jnp.ones((num_seeds, num_quantities), bool),
        first_bad_step=jnp.zeros(num_seeds, jnp.int32),
    )


def _actions(
    context: Context, state: AlgorithmState, obs: Float[Array, "seeds envs obs"], keys, at: Counters
) -> Float[Array, "seeds envs act"]:
    """The next action in every environment: random ones first, then the policy's."""
    shape = (obs.shape[1], context.spec.action_dim)
    return jax.lax.cond(
        at.env_step < context.config.num_random_steps,
        lambda: random_actions(keys, at, shape),
        lambda: explore(context.agent, state, obs, keys, at),
    )


def _step_environments(
    context: Context,
    keys: Key[Array, " seeds"],
    episodes: Episodes,
    action: Float[Array, "seeds envs act"],
) -> tuple[Episodes, Transition]:
    stepped = over_environments(partial(step_task, context.task), episodes.state, action)
    length = episodes.length + 1
    episode_return = episodes.episode_return + stepped.reward
    terminated = stepped.done.astype(bool)
    ended = terminated | (length >= context.time_limit)
    transition = Transition(
        obs=episodes.state.obs,
        action=action,
        reward=stepped.reward,
        next_obs=stepped.obs,
        terminated=terminated if context.config.bootstrap_at_time_limits else ended,
    )
    number = episodes.number + ended

    def begin_next() -> Any:
        def chosen(new, old):
            return jnp.where(ended.reshape(ended.shape + (1,) * (new.ndim - 2)), new, old)

        return jax.tree.map(chosen, _reset(context.task, keys, number), stepped)

    next_episodes = Episodes(
        state=jax.lax.cond(ended.any(), begin_next, lambda: stepped),
        number=number,
        length=jnp.where(ended, 0, length),
        episode_return=jnp.where(ended, 0.0, episode_return),
        last_return=jnp.where(ended, episode_return, episodes.last_return),
        last_length=jnp.where(ended, length, episodes.last_length),
    )
    return next_episodes, transition


def step_round(context: Context, keys: Key[Array, " seeds"], before: DeviceState) -> DeviceState:
    """A step of every environment, the updates that belong to it, the next actions."""
    agent, config = context.agent, context.config
    num_envs = config.envs_per_seed
    at = Counters(before.at.env_step + num_envs, before.at.update)
    episodes, transition = _step_environments(context, keys, before.episodes, before.action)
    numbers = before.at.env_step + jnp.arange(num_envs)
    replay = jax.vmap(store, in_axes=(0, 0, None))(before.replay, transition, numbers)
    due = config.learns_after(at.env_step)

    def learn_now(state: AlgorithmState) -> Learned:
        learned = learn(agent, config, state, replay, keys, at)
        return learned._replace(metrics=_newest(context, learned, before))

    learned = jax.lax.cond(
        due, learn_now, lambda state: before.learned._replace(state=state), before.learned.state
    )
    action = _actions(context, learned.state, episodes.state.obs, keys, at)
    seen = jnp.stack([transition.next_obs, episodes.state.obs], axis=1)  # resets' too
    finite = jnp.concatenate(
        [learned.finite, *map(_finite, (action, seen, transition.reward))], axis=1
    )
    first = (before.first_bad_step == 0) & ~finite.all(1)
    return DeviceState(
        learned=learned,
        replay=replay,
        episodes=episodes,
        action=action,
        at=Counters(at.env_step, at.update + due * config.updates_per_round),
        finite=jnp.where(first[:, None], finite, before.finite),
        first_bad_step=jnp.where(first, at.env_step, before.first_bad_step),
    )


def _newest(context: Context, learned: Learned, before: DeviceState) -> Metrics:
    """The metrics, with delayed ones from before if none of the updates made them."""
    delayed = context.agent.delayed
    if delayed is None:
        return learned.metrics
    made = delayed.is_due(before.at.update + jnp.arange(context.config.updates_per_round)).any()
    return learned.metrics | {
        name: jnp.where(made, learned.metrics[name], before.learned.metrics[name])
        for name in delayed.metrics
    }


def _finite(values: Float[Array, "seeds ..."]) -> Bool[Array, "seeds 1"]:
    return jnp.isfinite(values).reshape(values.shape[0], -1).all(1, keepdims=True)


def over_environments(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function` for every environment of every seed."""
    return jax.vmap(jax.vmap(function))(*arguments)


class EvaluationState(NamedTuple):
    """An evaluation in progress. All leaves except `step` lead with (seeds, episodes)."""

    state: Any
    running: Bool[Array, "seeds episodes"]
    episode_return: Float[Array, "seeds episodes"]
    length: Int[Array, "seeds episodes"]
    finite: Bool[Array, "seeds episodes"]
    step: Int[Array, ""]


def begin_evaluation(task: JaxTask, seeds: UInt32[Array, "seeds episodes"]) -> EvaluationState:
    """An evaluation's episodes before their first step."""
    state = over_environments(lambda seed: reset_task(task, jax.random.PRNGKey(seed)), seeds)
    return EvaluationState(
        state=state,
        running=jnp.ones(seeds.shape, bool),
        episode_return=jnp.zeros(seeds.shape),
        length=jnp.zeros(seeds.shape, jnp.int32),
        finite=jnp.isfinite(state.obs).all(-1),
        step=jnp.int32(0),
    )


def evaluate(
    context: Context,
    mode: str,
    acting: tuple[AlgorithmState, Key[Array, " seeds"], Counters],
    before: EvaluationState,
    num_steps: Int[Array, ""],
) -> EvaluationState:
    """At most `num_steps` more steps of an evaluation's episodes."""
    agents, keys, at = acting
    episodes = jnp.arange(before.running.shape[1], dtype=jnp.int32)
    last = before.step + num_steps
    time_limit = min(context.time_limit, MAX_EPISODE_STEPS)

    def step(now: EvaluationState) -> EvaluationState:
        inputs = EvaluationInputs(now.state.obs, episodes, now.step, keys, at)
        action = evaluation_actions(context.agent, mode, agents, inputs)
        stepped = over_environments(partial(step_task, context.task), now.state, action)
        length = now.length + now.running
        finite = jnp.isfinite(stepped.reward) & jnp.isfinite(stepped.obs).all(-1)
        continues = finite & (stepped.done == 0) & (length < time_limit)
        return EvaluationState(
            state=stepped,
            running=now.running & continues,
            episode_return=now.episode_return + jnp.where(now.running, stepped.reward, 0.0),
            length=length,
            finite=now.finite & (finite | ~now.running),
            step=now.step + 1,
        )

    return jax.lax.while_loop(lambda now: now.running.any() & (now.step < last), step, before)


class DevicePrograms:
    """The above, compiled for a number of seeds."""

    def __init__(self, context: Context, keys: Key[Array, " seeds"]):
        config = context.config
        begin, begin_episodes = partial(start, context), partial(begin_evaluation, context.task)

        def advance(state: DeviceState, keys, num_rounds) -> DeviceState:
            one_round = partial(step_round, context, keys)
            return jax.lax.fori_loop(0, num_rounds, lambda _, state: one_round(state), state)

        compiled = partial(compile_program, config)
        shape: DeviceState = jax.eval_shape(begin, keys)
        count = jax.ShapeDtypeStruct((), jnp.int32)
        seeds = jax.ShapeDtypeStruct((keys.shape[0], config.num_evaluation_episodes), jnp.uint32)
        episodes = jax.eval_shape(begin_episodes, seeds)
        acting = (shape.learned.state, keys, shape.at)
        self.start = compiled(begin, keys)
        self.advance = compiled(advance, shape, keys, count, donated=0)
        self.begin_evaluation = compiled(begin_episodes, seeds)
        self.evaluate = {
            mode: compiled(partial(evaluate, context, mode), acting, episodes, count, donated=1)
            for mode in config.evaluation_modes
        }


class DeviceLearners(Learners):
    """Environments, replay and agents of every seed in one program.

    However the env steps are divided among calls, they are the same.
    """

    def __init__(
        self,
        config: TrainingConfig,
        agent: Agent,
        environment: Environment,
        checkpoint: Checkpoint | None,
    ):
        assert isinstance(environment.env, JaxEnv)
        self._env = environment.env
        super().__init__(config, agent, environment, checkpoint)
        self._paces: defaultdict[str, Pace] = defaultdict(Pace)  # of random steps, of modes, ...

    def compile(self) -> None:
        """Compiles the programs, for as many seeds as there are now."""
        self._keys = seed_keys(tuple(self.seeds))
        env = self._env
        context = Context(env.task, env.max_episode_steps, self._agent, self.config, self.spec)
        self._programs = DevicePrograms(context, self._keys)

    def _start(self) -> list[Event]:
        self._keep(self._programs.start(self._keys))
        obs = np.asarray(self._now.episodes.state.obs).reshape(len(self.seeds), -1)
        return self._check(["observation"], np.isfinite(obs).all(axis=1, keepdims=True), 0)

    def _restore(self, checkpoint: Checkpoint) -> list[Event]:
        """The environments' states come from the checkpoint as they were."""
        # Without its replay: two would not fit.
        fresh: DeviceState = self._programs.start(self._keys)._replace(replay=None)
        learned, metrics = fresh.learned, self.metrics or {}
        if set(metrics) != set(learned.metrics):
            metrics = learned.metrics
        state = from_arrays(checkpoint.state, learned.state)
        episodes, action = from_arrays(checkpoint.episodes, (fresh.episodes, fresh.action))
        restored = fresh._replace(
            learned=learned._replace(state=state, metrics=metrics),
            episodes=episodes,
            action=action,
            at=counters(self.env_step, self.update),
        )
        # Copies that a program may take over, as the replay is already.
        copied = jax.tree.map(
            lambda leaf, like: jnp.array(leaf, like.dtype, copy=True), restored, fresh
        )
        replay = load_replay(checkpoint.replay_files, self.seeds, self.config, self.spec)
        self._keep(copied._replace(replay=replay))
        return []

    def step(self, at_most: int) -> list[Event]:
        """As many env steps in one call as take about a quarter of a second."""
        left = self.config.num_random_steps - self.env_step
        if left > 0:  # these are quick: what comes after them is another call
            at_most = min(at_most, left)
        pace = self._paces["random" if left > 0 else "learning"]
        rounds = partial(self._programs.advance, self._now, self._keys)
        self._keep(pace.run(rounds, at_most // self.config.envs_per_seed))
        first_bad, finite = jax.device_get((self._now.first_bad_step, self._now.finite))
        return self._check([*sorted(self._now.learned.metrics), *_CHECKED], finite, first_bad)

    def _keep(self, now: DeviceState) -> None:
        self._now = now
        self.state, self.replay = now.learned.state, now.replay
        self.env_step, self.update = int(now.at.env_step), int(now.at.update)
        if self.update:
            self.metrics = now.learned.metrics

    def _select(self, kept: np.ndarray) -> None:
        at = self._now.at
        without_counters = self._now._replace(at=None)  # pyright: ignore[reportArgumentType]
        self._keep(jax.tree.map(lambda leaf: leaf[kept], without_counters)._replace(at=at))

    def evaluation(self, mode: str, seeds: list[list[int]]) -> Evaluation:
        """Plays whole episodes, about a quarter of a second between two values."""
        acting = (self.state, self._keys, counters(self.env_step, self.update))
        program, pace = self._programs.evaluate[mode], self._paces[mode]
        now: EvaluationState = self._programs.begin_evaluation(np.array(seeds, np.uint32))
        while np.asarray(now.running).any():
            yield None
            now = pace.run(partial(program, acting, now), MAX_EPISODE_STEPS)
        returns, lengths, finite = jax.device_get((now.episode_return, now.length, now.finite))
        for agent, episode in np.argwhere(~finite).tolist():
            step, when = int(lengths[agent, episode]), "in an evaluation"
            error = NonFiniteError("observation or reward", self.env_name, step, when)
            raise EpisodeError(agent, error)
        yield [
            [EpisodeResult(*episode, None, None) for episode in zip(*of_agent, strict=True)]
            for of_agent in zip(seeds, returns.tolist(), lengths.tolist(), strict=True)
        ]

    def episodes(self) -> list[EpisodePosition]:
        """Of every seed; for several environments the sum of numbers, the means of the others."""
        episodes: Episodes = jax.device_get(self._now.episodes._replace(state=None))
        return [_of_seed(episodes, index) for index in range(len(self.seeds))]

    def snapshot(self) -> tuple[Arrays, Arrays]:
        """The state's arrays, and the environments' states."""
        return to_arrays(self.state), to_arrays((self._now.episodes, self._now.action))


class Pace:
    """How many steps a call makes so that it takes about `_CALL_S`."""

    def __init__(self):
        self._count = 1

    def run(self, steps: Callable[[Any], Any], at_most: int) -> Any:
        """The result of `steps`, which is called with their number."""
        count = min(self._count, at_most)
        began = time.perf_counter()
        result = jax.block_until_ready(steps(np.int32(count)))
        took_s = max(time.perf_counter() - began, 1e-6)
        # At most doubled: the next ones may take longer.
        self._count = max(1, min(2 * self._count, round(count * _CALL_S / took_s)))
        return result


def _of_seed(episodes: Episodes, index: int) -> EpisodePosition:
    ended = episodes.number[index] > 0
    last_return, last_length = episodes.last_return[index], episodes.last_length[index]
    return EpisodePosition(
        number=int(episodes.number[index].sum()),
        episode_return=float(episodes.episode_return[index].mean()),
        last_return=float(last_return[ended].mean()) if ended.any() else None,
        last_length=int(round(last_length[ended].mean())) if ended.any() else None,
    )
