"""Agents whose environments are stepped by Python, one env step after the other."""

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dime.envs.environment import Environment
from dime.errors import DimeError, describe
from dime.training.checkpoint import Arrays, Checkpoint, EpisodePosition, from_arrays, to_arrays
from dime.training.checkpoint.reader import load_replay
from dime.training.config import TrainingConfig
from dime.training.faults import Event, SeedFailure, state_of
from dime.training.host.episodes import EpisodeStream, Observed
from dime.training.host.evaluation import (
    Actions,
    EnvironmentPool,
    EpisodeError,
    Evaluation,
    play_episodes,
)
from dime.training.host.programs import (
    Learned,
    Programs,
    StepInputs,
    counters,
    evaluation_inputs,
    initialise,
    seed_keys,
)
from dime.training.replay import Replay, empty_replay
from dime.types import Agent, Counters, EnvSpec, Transition


class Learners(ABC):
    """The agents and environments of every seed that still runs, and how far they are.

    Seeds that fail are removed, unless all failed: then everything stays as it is.
    """

    state: Any
    replay: Replay
    metrics: Any
    """Of the newest updates, each leading with the axis of seeds; None before the first."""
    unrepeatable: str | None = None
    """Why seeds may not determine episodes; None if nothing says so."""
    learnt_env_step: int | None = None
    """With `--overlap`: the env step whose updates were made last."""

    def __init__(
        self,
        config: TrainingConfig,
        agent: Agent,
        environment: Environment,
        checkpoint: Checkpoint | None,
    ):
        self.config, self._agent, self._checkpoint = config, agent, checkpoint
        self.seeds, self.env_step, self.update, self.metrics = list(config.seeds), 0, 0, None
        self.env_restarts: dict[str, int] = {}
        if checkpoint is not None:
            run = checkpoint.run
            self.env_restarts = dict(run.env_restarts)
            self.seeds, self.env_step, self.update = run.seeds, run.env_step, run.updates
            self.metrics = run.metrics and {n: np.array(run.metrics[n]) for n in run.metrics}
        self.env_name, self.spaces = environment.name, environment.spaces
        self.spec = EnvSpec(environment.obs_dim, environment.action_dim, config.replay_capacity)

    @abstractmethod
    def compile(self) -> None:
        """Compiles the programs, for as many seeds as there are now."""

    def begin(self) -> list[Event]:
        """Begins, or continues from the checkpoint."""
        checkpoint, self._checkpoint = self._checkpoint, None
        return self._start() if checkpoint is None else self._restore(checkpoint)

    @abstractmethod
    def _start(self) -> list[Event]: ...

    @abstractmethod
    def _restore(self, checkpoint: Checkpoint) -> list[Event]: ...

    @abstractmethod
    def step(self, at_most: int) -> list[Event]:
        """At least one env step of every seed, at most so many, with the updates that are due."""

    @abstractmethod
    def evaluation(self, mode: str, seeds: list[list[int]]) -> Evaluation:
        """Plays whole episodes, whose seeds are given by agent."""

    def recover(self, error: EpisodeError) -> list[Event]:
        """Removes a seed whose environment failed in an evaluation."""
        failures: list[Event] = [self._failure(error.agent, error.cause)]
        self._remove_failed(failures)
        return failures

    @abstractmethod
    def episodes(self) -> list[EpisodePosition]:
        """Where every seed's episode in progress is."""

    @abstractmethod
    def snapshot(self) -> tuple[Arrays, Arrays]:
        """The state's arrays, and those of the episodes in progress."""

    def close(self) -> None:  # noqa: B027  only some open anything
        """Closes the evaluations' environments."""

    @abstractmethod
    def _select(self, kept: np.ndarray) -> None: ...

    def _failure(self, index: int, error: Exception) -> SeedFailure:
        """The failure of the seed at this index, caused by its environment's error."""
        reason, details = str(error), ""
        if not isinstance(error, DimeError):
            reason = f"{self.env_name} raised {describe(error)}"
            details = "".join(traceback.format_exception(error))
        reason = f"{reason} (after env step {self.env_step})"
        state = state_of(self.state, index)
        return SeedFailure(self.seeds[index], self.env_step, reason, details, False, state)

    def _poisoned(self, quantities: list[str], finite: Any, env_steps: Any) -> list[Event]:
        """The failures of seeds for which not all is `finite`, (seeds, quantities).

        `env_steps` says when: one for all seeds, or one for each.
        """
        failures: list[Event] = []
        for index in np.flatnonzero(~finite.all(axis=1)).tolist():
            env_step = int(np.broadcast_to(env_steps, len(self.seeds))[index])
            names = ", ".join(quantities[i] for i in np.flatnonzero(~finite[index]))
            reason = f"{names} became NaN or infinite at env step {env_step}"
            state = state_of(self.state, index)
            failures.append(SeedFailure(self.seeds[index], env_step, reason, "", True, state))
        return failures

    def _check(self, quantities: list[str], finite: Any, env_steps: Any) -> list[Event]:
        failures = self._poisoned(quantities, finite, env_steps)
        self._remove_failed(failures)
        return failures

    def _remove_failed(self, events: list[Event]) -> None:
        """Removes failed seeds and compiles for the others."""
        failed = {event.seed for event in events if isinstance(event, SeedFailure)}
        kept = np.array([i for i, seed in enumerate(self.seeds) if seed not in failed], int)
        if 0 < len(kept) < len(self.seeds):
            self._select(kept)
            self.seeds = [self.seeds[place] for place in kept]
            self.compile()


class HostLearners(Learners):
    """One Gymnasium environment for each seed, one program call per env step.

    `environments` by seed; `make_environment` makes those of evaluations.
    """

    def __init__(
        self,
        config: TrainingConfig,
        agent: Agent,
        environments: Mapping[int, Environment],
        make_environment: Callable[[], Environment],
        checkpoint: Checkpoint | None = None,
    ):
        super().__init__(config, agent, next(iter(environments.values())), checkpoint)
        limit, bootstrap = config.max_env_restarts, config.bootstrap_at_time_limits
        self.streams = [
            EpisodeStream(environments[seed], seed, limit, self.env_restarts, bootstrap)
            for seed in self.seeds
        ]
        self._pool = EnvironmentPool(make_environment, list(environments.values()))

    def compile(self) -> None:
        """Compiles the programs, for as many seeds as there are now."""
        self._keys = seed_keys(tuple(self.seeds))
        self._programs = Programs(self._agent, self.config, self.spec, len(self.seeds))

    def _start(self) -> list[Event]:
        self.replay = empty_replay(self.config, self.spec, len(self.seeds))
        self.state = jax.jit(partial(initialise, self._agent))(self._keys)
        _, events = self._attempt(lambda stream: stream.begin())
        self._choose_actions()
        self._remove_failed(events)
        return events

    def _restore(self, checkpoint: Checkpoint) -> list[Event]:
        self.replay = load_replay(checkpoint.replay_files, self.seeds, self.config, self.spec)
        state = from_arrays(checkpoint.state, self._programs.state_shape)
        self.state = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state)
        saved = checkpoint.episodes
        positions = dict(zip(self.seeds, checkpoint.run.episodes, strict=True))

        def follow(stream: EpisodeStream) -> bool:
            arrays = (saved[f"{stream.seed}/{name}"] for name in ("actions", "obs"))
            return stream.restore(positions[stream.seed], *arrays)

        followed, events = self._attempt(follow)
        self._actions = np.stack([saved[f"{seed}/next_action"] for seed in self.seeds])
        strays = [seed for seed, follows in followed.items() if not follows]
        if strays:
            self._choose_actions()
        self._remove_failed(events)
        return events + [
            f"warning: The environment of seed {seed} did not follow when its episode in progress "
            "was replayed from its seed and actions; a new episode begins. From here on the run "
            "differs from an uninterrupted one."
            for seed in strays
        ]

    def _attempt(self, do: Callable[[EpisodeStream], Any]) -> tuple[dict[int, Any], list[Event]]:
        """What `do` returns by seed; the restarts, and the failures of the seeds it raised for."""
        done: dict[int, Any] = {}
        events: list[Event] = []
        for index, stream in enumerate(self.streams):
            try:
                done[stream.seed] = do(stream)
            except Exception as error:  # whatever a user's environment raises
                events.append(self._failure(index, error))
            events += stream.fetch_warnings()
        return done, events

    def step(self, at_most: int) -> list[Event]:
        """One env step of every seed, its updates, and the choice of the next actions."""
        observed, events = self._step_environments()
        if not observed:
            return events
        transition = self._complete(observed, events)
        if self.config.learns_after(self.env_step):
            return events + self._advance(transition)
        return events + self._store_and_act(transition)

    def _step_environments(self) -> tuple[dict[int, Observed], list[Event]]:
        actions = dict(zip(self.seeds, self._actions, strict=True))
        for stream in self.streams:
            stream.env.start_step(actions[stream.seed])  # in other processes it begins
        return self._attempt(lambda stream: stream.step(actions[stream.seed]))

    def _complete(self, observed: dict[int, Observed], events: list[Event]) -> Transition:
        """Counts the env step; returns the transitions of the seeds that go on."""
        self._remove_failed(events)
        self.env_step += 1
        rows = zip(*(observed[seed] for seed in self.seeds), strict=True)
        return Transition(*(jnp.asarray(np.stack(row)) for row in rows))

    def _store_and_act(self, transition: Transition) -> list[Event]:
        self.replay = self._programs.store(self.replay, transition, self._counters())
        self._choose_actions()
        return self._check(["action"], _rows_finite(self._actions), self.env_step)

    def _counters(self) -> Counters:
        return counters(self.env_step, self.update)

    def _obs(self) -> np.ndarray:
        return np.stack([stream.obs for stream in self.streams])

    def _choose_actions(self) -> None:
        if self.env_step < self.config.num_random_steps:
            actions = self._programs.random_actions(self._keys, self._counters())
        else:
            actions = self._programs.explore(self.state, self._obs(), self._keys, self._counters())
        self._actions = np.asarray(actions)

    def _advance(self, transition: Transition) -> list[Event]:
        inputs = StepInputs(transition, self._obs(), self._keys, self._counters())  # pyright: ignore[reportArgumentType]
        self.replay, learned, action = self._programs.advance(self.state, self.replay, inputs)
        self._keep(learned)
        self._actions, finite = jax.device_get((action, learned.finite))
        finite = np.hstack([finite, _rows_finite(self._actions)])
        return self._check([*sorted(self.metrics), "action"], finite, self.env_step)

    def _keep(self, learned: Learned) -> None:
        numbers = self.update + np.arange(self.config.updates_per_round)
        delayed, metrics = self._agent.delayed, learned.metrics
        if delayed and self.metrics and not delayed.is_due(numbers).any():
            metrics = metrics | {name: self.metrics[name] for name in delayed.metrics}
        self.state, self.metrics = learned.state, metrics
        self.update += len(numbers)

    def _select(self, kept: np.ndarray) -> None:
        self.state, self.replay, self.metrics = jax.tree.map(
            lambda leaf: leaf[kept], (self.state, self.replay, self.metrics)
        )
        self._actions = self._actions[kept]
        self.streams = [self.streams[place] for place in kept]

    def evaluation(self, mode: str, seeds: list[list[int]]) -> Evaluation:
        """Plays whole episodes, one step between two values."""
        environments = self._pool.take(len(seeds), len(seeds[0]))
        self.unrepeatable = self._pool.unrepeatable
        return play_episodes(environments, seeds, self.evaluation_actions(mode))

    def evaluation_actions(self, mode: str) -> Actions:
        """The agents' actions in an evaluation mode."""
        program, at = self._programs.evaluate[mode], self._counters()

        def act(obs: np.ndarray, step: int) -> np.ndarray:
            return np.asarray(program(self.state, evaluation_inputs(obs, 0, step, self._keys, at)))

        return act

    def recover(self, error: EpisodeError) -> list[Event]:
        """Counts a restart before an evaluation is repeated; removes the seed if none is left."""
        self._pool.close()  # one of its environments may be broken
        stream = self.streams[error.agent]
        if stream.take_restart(error.cause, "the evaluation is repeated"):
            return stream.fetch_warnings()
        return super().recover(error)

    def close(self) -> None:
        """Closes the evaluations' environments."""
        self._pool.close()

    def episodes(self) -> list[EpisodePosition]:
        """Of every seed."""
        return [stream.position() for stream in self.streams]

    def snapshot(self) -> tuple[Arrays, Arrays]:
        """The state's arrays, and those of the episodes in progress."""
        episodes: Arrays = {}
        for stream, action in zip(self.streams, self._actions, strict=True):
            taken = np.array(stream.actions, np.float32).reshape(-1, self.spec.action_dim)
            episodes[f"{stream.seed}/actions"] = taken
            episodes[f"{stream.seed}/obs"] = stream.obs
            episodes[f"{stream.seed}/next_action"] = action
        return to_arrays(self.state), episodes


class OverlapLearners(HostLearners):
    """Learning while the environments step (`--overlap`).

    The updates of an env step are made while the environments take the next one.
    """

    # Saved: an environment that fails may leave its learner ahead; nothing must be learned twice.
    learnt_env_step: int | None = 0

    def _restore(self, checkpoint: Checkpoint) -> list[Event]:
        learned = checkpoint.run.learnt_env_step
        self.learnt_env_step = self.env_step if learned is None else learned
        return super()._restore(checkpoint)

    def step(self, at_most: int) -> list[Event]:
        """One env step of every seed, the updates of the one before, the next actions."""
        learned = None
        if self.config.learns_after(self.env_step) and (self.learnt_env_step or 0) < self.env_step:
            # Sent off; nothing here waits for it.
            learned = self._programs.learn(self.state, self.replay, self._keys, self._counters())
            self._keep(learned)
            self.learnt_env_step = self.env_step
        observed, events = self._step_environments()
        if learned is not None:
            quantities, finite = sorted(learned.metrics), np.asarray(learned.finite)
            events += self._poisoned(quantities, finite, self.env_step)
        failed = {event.seed for event in events if isinstance(event, SeedFailure)}
        if failed >= set(self.seeds):
            return events
        return events + self._store_and_act(self._complete(observed, events))


def _rows_finite(actions: np.ndarray) -> np.ndarray:
    return np.array([[np.isfinite(action).all()] for action in actions])
