"""Seeds whose environments are stepped outside of the program, one env step after the other."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dime.envs.environment import Environment
from dime.training.checkpoint.checkpoint import Checkpoint, from_arrays
from dime.training.checkpoint.files import Arrays
from dime.training.checkpoint.replay_files import load_replay
from dime.training.config import TrainingConfig
from dime.training.failures import SeedFailure, failure_of
from dime.training.host.episodes import EpisodeStream, Observed
from dime.training.host.evaluation import (
    Actions,
    EnvironmentPool,
    EpisodeError,
    EpisodeResult,
    run_episodes,
)
from dime.training.host.programs import (
    Learned,
    Programs,
    Turn,
    counters,
    evaluation_turn,
    initialise,
    initialise_replay,
    seed_keys,
)
from dime.training.learners import Compiling, Learners
from dime.training.restarts import Restarts, TellOfRestart, tell_nobody
from dime.types import Agent, EnvSpec, Transition


class HostLearners(Learners):
    """One Gymnasium environment for each seed; the program is called once per env step.

    `make_environment` makes those of evaluations; `tell_of_restart` hears of ones made anew.
    """

    def __init__(
        self,
        config: TrainingConfig,
        make_agent: Callable[[EnvSpec], Agent],
        environments: list[Environment],
        compiling: Compiling,
        make_environment: Callable[[], Environment],
        tell_of_restart: TellOfRestart = tell_nobody,
    ):
        super().__init__(config, make_agent, environments[0], compiling)
        self.streams = [
            EpisodeStream(
                env,
                Restarts(seed, config.max_env_restarts, tell_of_restart),
                config.bootstrap_at_time_limits,
            )
            for env, seed in zip(environments, self.seeds, strict=True)
        ]
        self._pool = EnvironmentPool(make_environment, environments)
        self._learnt_step: int = 0  # the newest env step whose updates were made

    def begin(self) -> dict[int, SeedFailure]:
        """As in `Learners`."""
        self.replay = initialise_replay(self.config.storage, self.spec, len(self.seeds))
        with self._compiling():
            self._compile()
        self.state = jax.jit(partial(initialise, self._agent))(self._keys)
        failures = {}
        for index, stream in enumerate(self.streams):
            try:
                stream.begin()
            except Exception as error:  # whatever a user's environment raises
                state = self.state_of(index)
                failures[stream.seed] = failure_of(error, stream.env.name, self.env_step, state)
        self._choose_actions()
        self.remove(set(failures))
        return failures

    def restore(self, checkpoint: Checkpoint) -> tuple[list[str], dict[int, SeedFailure]]:
        """As in `Learners`."""
        self._restore_counters(checkpoint)
        self.streams = [stream for stream in self.streams if stream.seed in self.seeds]
        run = checkpoint.run
        # Older checkpoints lack this; their learners never lagged.
        self._learnt_step = run["learnt_env_step"] if "learnt_env_step" in run else run["env_step"]
        files, storage = checkpoint.replay_files, self.config.storage
        self.replay = load_replay(files, self.seeds, storage, self.spec)
        with self._compiling():
            self._compile()
        state = from_arrays(checkpoint.state, self._programs.state_shape)
        self.state = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state)
        followed, failures = [], {}
        for index, (stream, position) in enumerate(
            zip(self.streams, checkpoint.run["episodes"], strict=True)
        ):
            stream.restarts.count = checkpoint.run.get("env_restarts", {}).get(str(stream.seed), 0)
            saved = (checkpoint.episodes[f"{stream.seed}/{name}"] for name in ("actions", "obs"))
            try:
                followed.append(stream.restore(position, *saved))
            except Exception as error:  # whatever a user's environment raises
                state = self.state_of(index)
                failures[stream.seed] = failure_of(error, stream.env.name, self.env_step, state)
                followed.append(True)  # what is left of it is not asked for an action
        self._actions = np.stack(
            [checkpoint.episodes[f"{seed}/next_action"] for seed in self.seeds]
        )
        strays = [seed for seed, follows in zip(self.seeds, followed, strict=True) if not follows]
        if strays:
            self._choose_actions()
        self.remove(set(failures))
        warnings = [
            f"The environment of seed {seed} did not follow when its episode in progress was "
            "replayed from its seed and actions; a new episode begins. From here on the run "
            "differs from an uninterrupted one."
            for seed in strays
        ]
        return warnings, failures

    def _compile(self) -> None:
        self._keys = seed_keys(tuple(self.seeds))
        self._programs = Programs(self._agent, self.config, self.spec, len(self.seeds))

    def _choose_actions(self) -> None:
        at = counters(self.env_step, self.update)
        if self.env_step < self.config.num_random_steps:
            actions = self._programs.random_actions(self._keys, at)
        else:
            obs = np.stack([stream.obs for stream in self.streams])
            actions = self._programs.explore(self.state, obs, self._keys, at)
        self._actions = np.asarray(actions)

    def step(self, at_most: int = 1) -> dict[int, SeedFailure]:
        """One env step of every seed, its updates, and the choice of the next actions.

        With `overlap` the updates are those of the env step before, and run while the environments
        step.
        """
        for stream, action in zip(self.streams, self._actions, strict=True):
            stream.start_step(action)
        learned = self._learn() if self.config.overlap and self._updates_are_due() else None
        observed, failures = self._step_environments()
        if learned is not None:
            failures |= self._poisoned(np.asarray(learned.finite), sorted(learned.metrics))
        if set(failures) >= set(self.seeds):
            return failures
        self.remove(set(failures))
        self.env_step += 1
        transition = _stacked([observed[seed] for seed in self.seeds])
        if self.config.overlap or not self._updates_are_due():
            return failures | self._store_and_act(transition)
        acting_obs = np.stack([observed[seed].acting_obs for seed in self.seeds])
        return failures | self._advance(transition, acting_obs)

    def _updates_are_due(self) -> bool:
        learns = self.config.learns_after(self.env_step)
        return learns and self._learnt_step < self.env_step

    def _step_environments(self) -> tuple[dict[int, Observed], dict[int, SeedFailure]]:
        observed, failures = {}, {}
        for index, (stream, action) in enumerate(zip(self.streams, self._actions, strict=True)):
            try:
                observed[stream.seed] = stream.step(action)
            except Exception as error:  # whatever a user's environment raises
                failures[stream.seed] = failure_of(
                    error, stream.env.name, self.env_step, self.state_of(index)
                )
        return observed, failures

    def _learn(self) -> Learned:
        """Sends off the updates of the newest env step; nothing here waits for them."""
        at = counters(self.env_step, self.update)
        return self._keep(self._programs.learn(self.state, self.replay, self._keys, at))

    def _store_and_act(self, transition: Transition) -> dict[int, SeedFailure]:
        at = counters(self.env_step, self.update)
        self.replay = self._programs.store(self.replay, transition, at)
        self._choose_actions()
        return self._remove_poisoned(_rows_finite(self._actions), ["action"])

    def _advance(self, transition: Transition, acting_obs: Any) -> dict[int, SeedFailure]:
        turn = Turn(transition, acting_obs, self._keys, counters(self.env_step, self.update))
        advanced = self._programs.advance(self.state, self.replay, turn)
        self.replay = advanced.replay
        learned = self._keep(advanced.learned)
        self._actions, finite = jax.device_get((advanced.action, learned.finite))
        finite = np.hstack([finite, _rows_finite(self._actions)])
        return self._remove_poisoned(finite, [*sorted(learned.metrics), "action"])

    def _keep(self, learned: Learned) -> Learned:
        self.state, self.metrics = learned.state, learned.metrics
        self.update += self.config.updates_per_env_step
        self._learnt_step = self.env_step
        return learned

    def _remove_poisoned(self, finite: np.ndarray, quantities: list[str]) -> dict[int, SeedFailure]:
        failures = self._poisoned(finite, quantities)
        self.remove(set(failures))
        return failures

    def _keep_seeds(self, kept: np.ndarray) -> None:
        self.state, self.replay, self.metrics = jax.tree.map(
            lambda leaf: leaf[kept], (self.state, self.replay, self.metrics)
        )
        self._actions = self._actions[kept]
        self.streams = [self.streams[i] for i in kept]

    def evaluate(
        self, mode: str, seeds: list[list[int]], stopped: Callable[[], bool]
    ) -> list[list[EpisodeResult]] | None:
        """As in `Learners`."""
        environments = self._pool.take(len(seeds), len(seeds[0]))
        self.unrepeatable = self._pool.unrepeatable
        return run_episodes(environments, seeds, self.evaluation_actions(mode), stopped)

    def evaluation_actions(self, mode: str) -> Actions:
        """The agents' actions in an evaluation mode."""
        program = self._programs.evaluate[mode]

        def act(obs: np.ndarray, step: int) -> np.ndarray:
            at = counters(self.env_step, self.update)
            return np.asarray(program(self.state, evaluation_turn(obs, 0, step, self._keys, at)))

        return act

    def after_failed_episode(self, error: EpisodeError) -> dict[int, SeedFailure]:
        """Counts a restart of the seed; takes it out where none is left."""
        self._pool.close()  # one of its environments may be broken
        stream = self.streams[error.agent]
        if stream.restarts.take(stream.env.name, error.cause, "the evaluation is repeated"):
            return {}
        state = self.state_of(error.agent)
        failure = failure_of(error.cause, stream.env.name, self.env_step, state)
        self.remove({stream.seed})
        return {stream.seed: failure}

    def close(self) -> None:
        """Closes the evaluations' environments."""
        self._pool.close()

    def episodes(self) -> list[dict[str, Any]]:
        """As in `Learners`."""
        return [stream.to_json() for stream in self.streams]

    def snapshot(self) -> tuple[Arrays, Arrays, dict[str, Any]]:
        """As in `Learners`, and how far `overlap` lags."""
        state, episodes, run = super().snapshot()
        run["learnt_env_step"] = self._learnt_step
        return state, episodes, run

    def _snapshot_of_episodes(self) -> Arrays:
        episodes: Arrays = {}
        for stream, action in zip(self.streams, self._actions, strict=True):
            taken = np.array(stream.actions, np.float32).reshape(-1, self.spec.action_dim)
            episodes[f"{stream.seed}/actions"] = taken
            episodes[f"{stream.seed}/obs"] = stream.obs
            episodes[f"{stream.seed}/next_action"] = action
        return episodes


def _stacked(observed: list[Observed]) -> Transition:
    names = ("obs", "action", "reward", "next_obs", "terminated")
    rows = (np.stack([getattr(one, name) for one in observed]) for name in names)
    return Transition(*map(jnp.asarray, rows))


def _rows_finite(actions: np.ndarray) -> np.ndarray:
    return np.array([[np.isfinite(action).all()] for action in actions])
