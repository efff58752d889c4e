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
from dime.training.checkpoint.checkpoint import Checkpoint, from_arrays, to_arrays
from dime.training.checkpoint.files import Arrays
from dime.training.checkpoint.replay_files import load_replay
from dime.training.config import TrainingConfig
from dime.training.device.evaluation import Acting, Given
from dime.training.device.programs import FINITE_TOO, DevicePrograms, Episodes, Trained
from dime.training.failures import SeedFailure, failure_of
from dime.training.host.evaluation import MAX_EPISODE_STEPS, EpisodeError, EpisodeResult
from dime.training.host.programs import Learned, counters, seed_keys
from dime.training.learners import Compiling, Learners
from dime.types import Agent, EnvSpec

_CALL_S = 0.25  # that long a call of a program may take: between calls, signals are heard


class DeviceLearners(Learners):
    """Environments, replay and agents of every seed in one program.

    However the env steps are divided among calls, they are the same.
    """

    def __init__(
        self,
        config: TrainingConfig,
        make_agent: Callable[[EnvSpec], Agent],
        environment: Environment,
        compiling: Compiling,
    ):
        super().__init__(config, make_agent, environment, compiling)
        assert isinstance(environment.env, JaxEnv)
        self._env, self._name = environment.env, environment.name
        self._paces: defaultdict[str, Pace] = defaultdict(Pace)  # of random steps, of modes, ...

    def _compile(self) -> None:
        self._keys = seed_keys(tuple(self.seeds))
        env = self._env
        given = Given(env.task, env.max_episode_steps, self._agent, self.config, self.spec)
        self._programs = DevicePrograms(given, self._keys)

    def begin(self) -> dict[int, SeedFailure]:
        """As in `Learners`."""
        with self._compiling():
            self._compile()
        self._keep(self._programs.start(self._keys))
        obs = np.asarray(self._trained.episodes.state.obs).reshape(len(self.seeds), -1)
        finite = np.array([[np.isfinite(row).all()] for row in obs])
        failures = self._poisoned(finite, ["observation"])
        self.remove(set(failures))
        return failures

    def restore(self, checkpoint: Checkpoint) -> tuple[list[str], dict[int, SeedFailure]]:
        """As in `Learners`; the environments' states come from the checkpoint as they were."""
        self._restore_counters(checkpoint)
        with self._compiling():
            self._compile()
        shape = self._programs.shape
        state = from_arrays(checkpoint.state, shape.learned.state)
        episodes, action = from_arrays(checkpoint.episodes, (shape.episodes, shape.action))
        metrics = _zeros(shape.learned.metrics)
        if self.metrics and set(self.metrics) == set(metrics):
            metrics = self.metrics
        num_quantities = shape.finite.shape[1]
        restored = Trained(
            learned=Learned(state, metrics, np.ones(shape.learned.finite.shape, bool)),  # pyright: ignore[reportArgumentType]
            replay=load_replay(checkpoint.replay_files, self.seeds, self.config.storage, self.spec),
            episodes=episodes,
            action=action,
            at=counters(self.env_step, self.update),
            finite=np.ones((len(self.seeds), num_quantities), bool),  # pyright: ignore[reportArgumentType]
            first_bad_step=np.zeros(len(self.seeds), np.int32),  # pyright: ignore[reportArgumentType]
        )
        # But for the replay, which is made of arrays of its own: two would not fit.
        replay = restored.replay
        rest = jax.tree.map(
            _as_expected, restored._replace(replay=None), shape._replace(replay=None)
        )  # pyright: ignore[reportArgumentType]
        self._keep(rest._replace(replay=replay))
        return [], {}

    def step(self, at_most: int) -> dict[int, SeedFailure]:
        """As many env steps in one call as take about a quarter of a second."""
        num_envs, left = self.config.envs_per_seed, self.config.num_random_steps - self.env_step
        if left > 0:  # these are quick: what comes after them is another call
            at_most = min(at_most, left)

        def turns(count: int) -> None:
            trained = self._programs.advance(self._trained, self._keys, np.int32(count))
            self._keep(jax.block_until_ready(trained))

        self._paces["random" if left > 0 else "learning"].run(turns, at_most // num_envs)
        return self._take_out_poisoned()

    def _keep(self, trained: Trained) -> None:
        self._trained = trained
        self.state, self.replay = trained.learned.state, trained.replay
        self.env_step, self.update = int(trained.at.env_step), int(trained.at.update)
        if self.update:
            self.metrics = trained.learned.metrics

    def _take_out_poisoned(self) -> dict[int, SeedFailure]:
        first_bad, finite = jax.device_get((self._trained.first_bad_step, self._trained.finite))
        quantities = [*sorted(self._trained.learned.metrics), *FINITE_TOO]
        failures = self._poisoned(finite, quantities, first_bad)
        self.remove(set(failures))
        return failures

    def _keep_seeds(self, kept: np.ndarray) -> None:
        at = self._trained.at
        without_counters = self._trained._replace(at=None)  # pyright: ignore[reportArgumentType]
        rest = jax.tree.map(lambda leaf: leaf[kept], without_counters)
        self._keep(rest._replace(at=at))

    def evaluate(
        self, mode: str, seeds: list[list[int]], stopped: Callable[[], bool]
    ) -> list[list[EpisodeResult]] | None:
        """As in `Learners`."""
        played = self._programs.begin_playing(np.array(seeds, np.uint32))
        acting = Acting(self.state, self._keys, counters(self.env_step, self.update))

        def steps(count: int) -> None:
            nonlocal played
            program = self._programs.play[mode]
            played = jax.block_until_ready(program(acting, played, np.int32(count)))

        while np.asarray(played.running).any():
            if stopped():
                return None
            self._paces[mode].run(steps, MAX_EPISODE_STEPS)
        returns, lengths, finite = jax.device_get(
            (played.episode_return, played.length, played.finite)
        )
        for agent, episode in np.argwhere(~finite).tolist():
            step = int(lengths[agent, episode])
            raise EpisodeError(
                agent, NonFiniteError("observation or reward", self._name, step, "in an evaluation")
            )
        return [
            [
                EpisodeResult(seed, float(episode_return), int(length), None, None)
                for seed, episode_return, length in zip(*of_agent, strict=True)
            ]
            for of_agent in zip(seeds, returns, lengths, strict=True)
        ]

    def after_failed_episode(self, error: EpisodeError) -> dict[int, SeedFailure]:
        """The seed is taken out: such an environment would do the same again."""
        seed = self.seeds[error.agent]
        state = self.state_of(error.agent)
        failure = failure_of(error.cause, self._name, self.env_step, state)
        self.remove({seed})
        return {seed: failure}

    def episodes(self) -> list[dict[str, Any]]:
        """As in `Learners`; of several environments the sum of numbers and the means of others."""
        episodes: Episodes = jax.device_get(self._trained.episodes._replace(state=None))
        return [_of_seed(episodes, index) for index in range(len(self.seeds))]

    def snapshot(self) -> tuple[Arrays, Arrays, dict[str, Any]]:
        """As in `Learners`; `on_device` says that the episodes' arrays are environments' states."""
        state, episodes, run = super().snapshot()
        return state, episodes, run | {"on_device": True}

    def _snapshot_of_episodes(self) -> Arrays:
        return to_arrays((self._trained.episodes, self._trained.action))

    def close(self) -> None:
        """Nothing was opened."""


class Pace:
    """How many steps a call makes, so that it takes about `_CALL_S`."""

    def __init__(self):
        self._count = 1

    def run(self, steps: Callable[[int], None], at_most: int) -> None:
        """Calls `steps` with their number."""
        count = min(self._count, at_most)
        began = time.perf_counter()
        steps(count)
        took_s = max(time.perf_counter() - began, 1e-6)
        # At most doubled: the next ones may take longer.
        self._count = max(1, min(2 * self._count, round(count * _CALL_S / took_s)))


def _of_seed(episodes: Episodes, index: int) -> dict[str, Any]:
    ended = episodes.number[index] > 0
    last_return, last_length = episodes.last_return[index], episodes.last_length[index]
    return {
        "number": int(episodes.number[index].sum()),
        "episode_return": float(episodes.episode_return[index].mean()),
        "last_return": float(last_return[ended].mean()) if ended.any() else None,
        "last_length": int(round(last_length[ended].mean())) if ended.any() else None,
    }


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def _as_expected(leaf: Any, shape: Any) -> Any:
    """A copy on the device that a program may take over."""
    return jnp.array(leaf, shape.dtype, copy=True)
