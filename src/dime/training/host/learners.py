"""Agents whose environments are stepped by Python, one env step after the other."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dime.envs.environment import Environment
from dime.training.checkpoint import (
    Arrays,
    Checkpoint,
    EpisodePosition,
    from_arrays,
    position_of,
    to_arrays,
)
from dime.training.checkpoint.replay import load_replay
from dime.training.config import TrainingConfig
from dime.training.faults import Event, Restarts, failure_of, poisoned, state_of, survivors
from dime.training.host.episodes import EpisodeStream, Observed
from dime.training.host.evaluation import Actions, EnvironmentPool, EpisodeError, Episodes
from dime.training.host.programs import (
    Learned,
    Programs,
    StepInputs,
    counters,
    evaluation_inputs,
    initialise,
    initialise_replay,
    seed_keys,
)
from dime.training.replay import Replay
from dime.types import Agent, EnvSpec, Transition


class HostLearners:
    """One Gymnasium environment for each seed; one program is called per env step.

    `environments` by seed; `make_environment` makes those of evaluations. After `compile` and
    `begin` everything is as before the first step, or as it was at `checkpoint`.
    """

    state: Any
    replay: Replay

    def __init__(
        self,
        config: TrainingConfig,
        agent: Agent,
        environments: Mapping[int, Environment],
        make_environment: Callable[[], Environment],
        checkpoint: Checkpoint | None = None,
    ):
        self.config = config
        self._checkpoint = checkpoint
        position = position_of(checkpoint, config.seeds)
        self.seeds, self.env_step, self.update, self.metrics = position
        one = environments[self.seeds[0]]
        self.env_name, self.spaces = one.name, one.spaces
        self.spec = EnvSpec(one.obs_dim, one.action_dim, config.replay_capacity)
        self._agent = agent
        self.streams = [
            EpisodeStream(
                environments[seed],
                Restarts(seed, config.max_env_restarts),
                config.bootstrap_at_time_limits,
            )
            for seed in self.seeds
        ]
        self._pool = EnvironmentPool(make_environment, list(environments.values()))

    @property
    def unrepeatable(self) -> str | None:
        """Why episodes do not follow from their seeds; None if nothing is known against it."""
        return self._pool.unrepeatable

    def compile(self) -> None:
        """Compiles the programs, for as many seeds as there are now."""
        self._keys = seed_keys(tuple(self.seeds))
        self._programs = Programs(self._agent, self.config, self.spec, len(self.seeds))

    def begin(self) -> list[Event]:
        """Begins, or continues from the checkpoint, which `refuse_if_other` has let pass."""
        checkpoint, self._checkpoint = self._checkpoint, None
        if checkpoint is not None:
            return self._restore(checkpoint)
        self.replay = initialise_replay(self.config.storage, self.spec, len(self.seeds))
        self.state = jax.jit(partial(initialise, self._agent))(self._keys)
        _, events = self._attempt(lambda stream: stream.begin())
        self._choose_actions()
        self._remove_failed(events)
        return events

    def _restore(self, checkpoint: Checkpoint) -> list[Event]:
        files, storage = checkpoint.replay_files, self.config.storage
        self.replay = load_replay(files, self.seeds, storage, self.spec)
        state = from_arrays(checkpoint.state, self._programs.state_shape)
        self.state = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state)
        saved = checkpoint.episodes
        positions = dict(zip(self.seeds, checkpoint.run.episodes, strict=True))

        def follow(stream: EpisodeStream) -> bool:
            stream.restarts.count = checkpoint.run.env_restarts.get(str(stream.seed), 0)
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
            events += stream.restarts.fetch()
        return done, events

    def _failure(self, index: int, error: Exception) -> Event:
        stream = self.streams[index]
        state = state_of(self.state, index)
        return failure_of(stream.seed, error, stream.env.name, self.env_step, state)

    def step(self, at_most: int = 1) -> list[Event]:
        """One env step of every seed, its updates, and the choice of the next actions."""
        self._start_environments()
        observed, events = self._step_environments()
        if not observed:
            return events
        transition, acting_obs = self._complete(observed, events)
        if not self.config.learns_after(self.env_step):
            return events + self._store_and_act(transition)
        return events + self._advance(transition, acting_obs)

    def _start_environments(self) -> None:
        for stream, action in zip(self.streams, self._actions, strict=True):
            stream.start_step(action)

    def _step_environments(self) -> tuple[dict[int, Observed], list[Event]]:
        actions = dict(zip(self.seeds, self._actions, strict=True))
        return self._attempt(lambda stream: stream.step(actions[stream.seed]))

    def _complete(
        self, observed: dict[int, Observed], events: list[Event]
    ) -> tuple[Transition, np.ndarray]:
        """The env step was taken by the seeds that go on: their transitions, what to act on."""
        self._remove_failed(events)
        self.env_step += 1
        names = ("obs", "action", "reward", "next_obs", "terminated")
        rows = (np.stack([getattr(observed[seed], name) for seed in self.seeds]) for name in names)
        acting_obs = np.stack([observed[seed].acting_obs for seed in self.seeds])
        return Transition(*map(jnp.asarray, rows)), acting_obs

    def _store_and_act(self, transition: Transition) -> list[Event]:
        at = counters(self.env_step, self.update)
        self.replay = self._programs.store(self.replay, transition, at)
        self._choose_actions()
        return self._check(["action"], _rows_finite(self._actions))

    def _choose_actions(self) -> None:
        at = counters(self.env_step, self.update)
        if self.env_step < self.config.num_random_steps:
            actions = self._programs.random_actions(self._keys, at)
        else:
            obs = np.stack([stream.obs for stream in self.streams])
            actions = self._programs.explore(self.state, obs, self._keys, at)
        self._actions = np.asarray(actions)

    def _advance(self, transition: Transition, acting_obs: Any) -> list[Event]:
        inputs = StepInputs(
            transition, acting_obs, self._keys, counters(self.env_step, self.update)
        )
        advanced = self._programs.advance(self.state, self.replay, inputs)
        self.replay = advanced.replay
        self._keep(advanced.learned)
        self._actions, finite = jax.device_get((advanced.action, advanced.learned.finite))
        finite = np.hstack([finite, _rows_finite(self._actions)])
        return self._check([*sorted(self.metrics), "action"], finite)

    def _keep(self, learned: Learned) -> None:
        numbers = self.update + np.arange(self.config.updates_per_env_step)
        delayed, metrics = self._agent.delayed, learned.metrics
        if delayed and self.metrics and not delayed.is_due(numbers).any():
            metrics = metrics | {name: self.metrics[name] for name in delayed.metrics}
        self.state, self.metrics = learned.state, metrics
        self.update += len(numbers)

    def _check(self, quantities: list[str], finite: np.ndarray) -> list[Event]:
        events = poisoned(self.seeds, self.state, quantities, finite, self.env_step)
        self._remove_failed(events)
        return events

    def _remove_failed(self, events: list[Event]) -> None:
        """The others go on in programs that are compiled for them; if all failed, nothing does."""
        kept = survivors(self.seeds, events)
        if kept is None:
            return
        self.state, self.replay, self.metrics = jax.tree.map(
            lambda leaf: leaf[kept], (self.state, self.replay, self.metrics)
        )
        self._actions = self._actions[kept]
        self.streams = [self.streams[place] for place in kept]
        self.seeds = [self.seeds[place] for place in kept]
        self.compile()

    def evaluation(self, mode: str, seeds: list[list[int]]) -> Episodes:
        """Episodes by agent, which are reset with these seeds. Raises `EpisodeError`."""
        environments = self._pool.take(len(seeds), len(seeds[0]))
        return Episodes(environments, seeds, self.evaluation_actions(mode))

    def evaluation_actions(self, mode: str) -> Actions:
        """The agents' actions in an evaluation mode."""
        program = self._programs.evaluate[mode]

        def act(obs: np.ndarray, step: int) -> np.ndarray:
            at = counters(self.env_step, self.update)
            return np.asarray(program(self.state, evaluation_inputs(obs, 0, step, self._keys, at)))

        return act

    def recover(self, error: EpisodeError) -> list[Event]:
        """Counts a restart before an evaluation is repeated; removes the seed if none is left."""
        self._pool.close()  # one of its environments may be broken
        stream = self.streams[error.agent]
        if stream.restarts.take(stream.env.name, error.cause, "the evaluation is repeated"):
            return stream.restarts.fetch()
        events = [self._failure(error.agent, error.cause)]
        self._remove_failed(events)
        return events

    def close(self) -> None:
        """Closes the evaluations' environments."""
        self._pool.close()

    def episodes(self) -> list[EpisodePosition]:
        """Of every seed."""
        return [stream.position() for stream in self.streams]

    def snapshot(self) -> tuple[Arrays, Arrays, dict[str, Any]]:
        """The state's arrays, those of the episodes in progress, and what else `run.json` keeps."""
        episodes: Arrays = {}
        for stream, action in zip(self.streams, self._actions, strict=True):
            taken = np.array(stream.actions, np.float32).reshape(-1, self.spec.action_dim)
            episodes[f"{stream.seed}/actions"] = taken
            episodes[f"{stream.seed}/obs"] = stream.obs
            episodes[f"{stream.seed}/next_action"] = action
        return to_arrays(self.state), episodes, {}


def _rows_finite(actions: np.ndarray) -> np.ndarray:
    return np.array([[np.isfinite(action).all()] for action in actions])
