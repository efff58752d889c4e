"""Seeds whose environments JAX computes: many env steps in one call of one program."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dime.envs.environment import Environment, NonFiniteError
from dime.envs.jax_env import JaxEnv
from dime.training.checkpoint import (
    Arrays,
    Checkpoint,
    EpisodePosition,
    from_arrays,
    position_of,
    to_arrays,
)
from dime.training.checkpoint.reader import load_replay
from dime.training.config import TrainingConfig
from dime.training.device.programs import (
    FINITE_TOO,
    ActingAgents,
    Context,
    DevicePrograms,
    DeviceState,
    Episodes,
    EvaluationState,
)
from dime.training.faults import Event, failure_of, poisoned, state_of, survivors
from dime.training.host.evaluation import MAX_EPISODE_STEPS, EpisodeError, EpisodeResult
from dime.training.host.programs import Learned, counters, seed_keys
from dime.types import Agent, EnvSpec

_CALL_S = 0.25  # about how long one call of a program may take: signals are noticed between calls


class DeviceLearners:
    """Environments, replay and agents of every seed in one program.

    However the env steps are divided among calls, they are the same. After `compile` and `begin`
    everything is as before the first step, or as it was at `checkpoint`.
    """

    unrepeatable = None  # pure functions of their seeds

    def __init__(
        self,
        config: TrainingConfig,
        agent: Agent,
        environment: Environment,
        checkpoint: Checkpoint | None = None,
    ):
        self.config = config
        self._checkpoint = checkpoint
        position = position_of(checkpoint, config.seeds)
        self.seeds, self.env_step, self.update, self.metrics = position
        self.env_name, self.spaces = environment.name, environment.spaces
        self.spec = EnvSpec(environment.obs_dim, environment.action_dim, config.replay_capacity)
        self._agent = agent
        assert isinstance(environment.env, JaxEnv)
        self._env = environment.env
        self._paces: defaultdict[str, Pace] = defaultdict(Pace)  # of random steps, of modes, ...

    def compile(self) -> None:
        """Compiles the programs, for as many seeds as there are now."""
        self._keys = seed_keys(tuple(self.seeds))
        env = self._env
        context = Context(env.task, env.max_episode_steps, self._agent, self.config, self.spec)
        self._programs = DevicePrograms(context, self._keys)

    def begin(self) -> list[Event]:
        """Begins, or continues from the checkpoint, which `refuse_if_other` has let pass."""
        checkpoint, self._checkpoint = self._checkpoint, None
        if checkpoint is not None:
            self._restore(checkpoint)
            return []
        self._keep(self._programs.start(self._keys))
        obs = np.asarray(self._now.episodes.state.obs).reshape(len(self.seeds), -1)
        finite = np.isfinite(obs).all(axis=1, keepdims=True)
        events = poisoned(self.seeds, self.state, ["observation"], finite, self.env_step)
        self._remove_failed(events)
        return events

    def _restore(self, checkpoint: Checkpoint) -> None:
        """The environments' states come from the checkpoint as they were."""
        shape = self._programs.shape
        state = from_arrays(checkpoint.state, shape.learned.state)
        episodes, action = from_arrays(checkpoint.episodes, (shape.episodes, shape.action))
        metrics, first_bad_step = jax.tree.map(
            lambda leaf: np.zeros(leaf.shape, leaf.dtype),
            (shape.learned.metrics, shape.first_bad_step),
        )
        if self.metrics and set(self.metrics) == set(metrics):
            metrics = self.metrics
        restored = DeviceState(
            learned=Learned(state, metrics, np.ones(shape.learned.finite.shape, bool)),  # pyright: ignore[reportArgumentType]
            replay=None,  # pyright: ignore[reportArgumentType]
            episodes=episodes,
            action=action,
            at=counters(self.env_step, self.update),
            finite=np.ones(shape.finite.shape, bool),  # pyright: ignore[reportArgumentType]
            first_bad_step=first_bad_step,
        )
        # Copies that a program may take over. The replay is one already: two would not fit.
        copied = jax.tree.map(
            lambda leaf, like: jnp.array(leaf, like.dtype, copy=True),
            restored,
            shape._replace(replay=None),  # pyright: ignore[reportArgumentType]
        )
        files, storage = checkpoint.replay_files, self.config.storage
        replay = load_replay(files, self.seeds, storage, self.spec)
        self._keep(copied._replace(replay=replay))

    def step(self, at_most: int) -> list[Event]:
        """As many env steps in one call as take about a quarter of a second."""
        num_envs, left = self.config.envs_per_seed, self.config.num_random_steps - self.env_step
        if left > 0:  # these are quick: what comes after them is another call
            at_most = min(at_most, left)

        def rounds(count: int) -> DeviceState:
            return self._programs.advance(self._now, self._keys, np.int32(count))

        pace = self._paces["random" if left > 0 else "learning"]
        self._keep(pace.run(rounds, at_most // num_envs))
        first_bad, finite = jax.device_get((self._now.first_bad_step, self._now.finite))
        quantities = [*sorted(self._now.learned.metrics), *FINITE_TOO]
        events = poisoned(self.seeds, self.state, quantities, finite, first_bad)
        self._remove_failed(events)
        return events

    def _keep(self, now: DeviceState) -> None:
        self._now = now
        self.state, self.replay = now.learned.state, now.replay
        self.env_step, self.update = int(now.at.env_step), int(now.at.update)
        if self.update:
            self.metrics = now.learned.metrics

    def _remove_failed(self, events: list[Event]) -> None:
        """The others go on in programs that are compiled for them; if all failed, nothing does."""
        kept = survivors(self.seeds, events)
        if kept is None:
            return
        at = self._now.at
        without_counters = self._now._replace(at=None)  # pyright: ignore[reportArgumentType]
        rest = jax.tree.map(lambda leaf: leaf[kept], without_counters)
        self._keep(rest._replace(at=at))
        self.seeds = [self.seeds[place] for place in kept]
        self.compile()

    def evaluation(self, mode: str, seeds: list[list[int]]) -> "DeviceEpisodes":
        """Episodes by agent, which are reset with these seeds."""
        acting = ActingAgents(self.state, self._keys, counters(self.env_step, self.update))
        program, pace = self._programs.evaluate[mode], self._paces[mode]
        begun = self._programs.begin_evaluation(np.array(seeds, np.uint32))

        def advance(episodes: EvaluationState) -> EvaluationState:
            return pace.run(
                lambda count: program(acting, episodes, np.int32(count)), MAX_EPISODE_STEPS
            )

        return DeviceEpisodes(self.env_name, seeds, begun, advance)

    def recover(self, error: EpisodeError) -> list[Event]:
        """Removes the seed: such an environment would do the same again."""
        state = state_of(self.state, error.agent)
        seed = self.seeds[error.agent]
        events: list[Event] = [failure_of(seed, error.cause, self.env_name, self.env_step, state)]
        self._remove_failed(events)
        return events

    def episodes(self) -> list[EpisodePosition]:
        """Of every seed; for several environments the sum of numbers, the means of the others."""
        episodes: Episodes = jax.device_get(self._now.episodes._replace(state=None))
        return [_of_seed(episodes, index) for index in range(len(self.seeds))]

    def snapshot(self) -> tuple[Arrays, Arrays, dict[str, Any]]:
        """The state's arrays, the environments' states, and a mark that these are on the device."""
        episodes = to_arrays((self._now.episodes, self._now.action))
        return to_arrays(self.state), episodes, {"on_device": True}

    def close(self) -> None:
        """Nothing was opened."""


class DeviceEpisodes:
    """An evaluation's episodes, many steps in each call of `advance`."""

    def __init__(
        self,
        env_name: str,
        seeds: list[list[int]],
        begun: EvaluationState,
        advance: Callable[[EvaluationState], EvaluationState],
    ):
        self._env_name, self._seeds = env_name, seeds
        self._now, self._advance = begun, advance

    @property
    def running(self) -> bool:
        """Whether an episode has not ended yet."""
        return bool(np.asarray(self._now.running).any())

    def advance(self) -> None:
        """Takes steps for about a quarter of a second."""
        self._now = self._advance(self._now)

    def results(self) -> list[list[EpisodeResult]]:
        """Of all episodes, by agent. Raises `EpisodeError`."""
        returns, lengths, finite = jax.device_get(
            (self._now.episode_return, self._now.length, self._now.finite)
        )
        for agent, episode in np.argwhere(~finite).tolist():
            step, when = int(lengths[agent, episode]), "in an evaluation"
            quantity = "observation or reward"
            raise EpisodeError(agent, NonFiniteError(quantity, self._env_name, step, when))
        return [
            [
                EpisodeResult(seed, float(episode_return), int(length), None, None)
                for seed, episode_return, length in zip(*of_agent, strict=True)
            ]
            for of_agent in zip(self._seeds, returns, lengths, strict=True)
        ]


class Pace:
    """How many steps a call makes so that it takes about `_CALL_S`."""

    def __init__(self):
        self._count = 1

    def run(self, steps: Callable[[int], Any], at_most: int) -> Any:
        """The result of `steps`, which is called with their number."""
        count = min(self._count, at_most)
        began = time.perf_counter()
        result = jax.block_until_ready(steps(count))
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
