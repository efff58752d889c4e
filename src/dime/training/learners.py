"""What a loop trains: the agents and environments of every seed that still runs."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np

from dime.envs.environment import Environment
from dime.training.checkpoint.checkpoint import Checkpoint, to_arrays
from dime.training.checkpoint.files import Arrays
from dime.training.config import TrainingConfig
from dime.training.failures import SeedFailure
from dime.training.host.evaluation import EpisodeError, EpisodeResult
from dime.training.replay import Replay
from dime.types import Agent, EnvSpec

Compiling = Callable[[], AbstractContextManager[None]]
"""Entered while programs are compiled, which may take long."""


class Learners(ABC):
    """All seeds side by side in one program, and how far they are.

    `HostLearners` have an environment each; `DeviceLearners` have theirs in the program.
    """

    state: Any
    replay: Replay

    def __init__(
        self,
        config: TrainingConfig,
        make_agent: Callable[[EnvSpec], Agent],
        environment: Environment,
        compiling: Compiling,
    ):
        self.config = config
        self.env_name = environment.name
        self._spaces = environment.spaces
        self.seeds = list(config.seeds)
        self.spec = EnvSpec(environment.obs_dim, environment.action_dim, config.replay_capacity)
        self.env_step = 0
        self.update = 0
        self.metrics: Any = None
        self.unrepeatable: str | None = None  # why episodes do not follow from their seeds
        self._agent = make_agent(self.spec)
        self._compiling = compiling

    @abstractmethod
    def begin(self) -> dict[int, SeedFailure]:
        """Everything as it is before the first step; returns the seeds that fail already."""

    @abstractmethod
    def restore(self, checkpoint: Checkpoint) -> tuple[list[str], dict[int, SeedFailure]]:
        """Everything as it was at a checkpoint that `refuse_if_other` has let pass.

        Returns warnings, and the seeds that failed. They are gone from here, unless all failed.
        """

    @abstractmethod
    def step(self, at_most: int) -> dict[int, SeedFailure]:
        """Some env steps of every seed with their updates, at least one and not above `at_most`.

        Returns the seeds that failed, by seed. They are gone from here, unless all failed.
        """

    @abstractmethod
    def evaluate(
        self, mode: str, seeds: list[list[int]], stopped: Callable[[], bool]
    ) -> list[list[EpisodeResult]] | None:
        """Whole episodes by agent, reset with these seeds; None where `stopped` said so.

        Raises `EpisodeError`.
        """

    @abstractmethod
    def after_failed_episode(self, error: EpisodeError) -> dict[int, SeedFailure]:
        """Makes ready to repeat an evaluation; returns the seed if it failed for good."""

    @abstractmethod
    def episodes(self) -> list[dict[str, Any]]:
        """By seed: how many ended, the return of the present one, return and length of the last."""

    @abstractmethod
    def _snapshot_of_episodes(self) -> Arrays:
        """What brings the environments back to where they are."""

    @abstractmethod
    def _keep_seeds(self, kept: np.ndarray) -> None:
        """Of everything the parts of the seeds at these places."""

    @abstractmethod
    def _compile(self) -> None:
        """The programs for `seeds`, as many as there are now."""

    @abstractmethod
    def close(self) -> None:
        """Closes the environments that were made here."""

    def snapshot(self) -> tuple[Arrays, Arrays, dict[str, Any]]:
        """The state's arrays, the episodes' arrays, and the counters and positions."""
        run = {
            "env_step": self.env_step,
            "updates": self.update,
            "metrics": self.metrics and _as_lists(self.metrics),
            "seeds": self.seeds,
            "spaces": self._spaces.to_json(),
            "episodes": self.episodes(),
        }
        return to_arrays(self.state), self._snapshot_of_episodes(), run

    def state_of(self, index: int) -> Arrays:
        """The state's arrays of the seed at this place."""
        return to_arrays(jax.tree.map(lambda leaf: leaf[index], self.state))

    def _poisoned(
        self, finite: np.ndarray, quantities: list[str], env_steps: np.ndarray | None = None
    ) -> dict[int, SeedFailure]:
        """The failures of seeds for which not all is `finite`, (seeds, quantities).

        `env_steps` says when; this one where it is None.
        """
        failures = {}
        for index in np.flatnonzero(~finite.all(axis=1)).tolist():
            env_step = self.env_step if env_steps is None else int(env_steps[index])
            names = ", ".join(quantities[i] for i in np.flatnonzero(~finite[index]))
            reason = f"{names} became NaN or infinite at env step {env_step}"
            failures[self.seeds[index]] = SeedFailure(
                env_step, reason, "", poisoned=True, state=self.state_of(index)
            )
        return failures

    def _restore_counters(self, checkpoint: Checkpoint) -> None:
        self.seeds = checkpoint.run["seeds"]
        self.env_step, self.update = checkpoint.run["env_step"], checkpoint.run["updates"]
        metrics = checkpoint.run.get("metrics")
        self.metrics = metrics and {name: np.array(metrics[name]) for name in metrics}

    def remove(self, failed: set[int]) -> None:
        """Takes failed seeds out of the program, which is compiled anew for the others.

        Where that would leave none, everything stays as it is.
        """
        kept = np.array([i for i, seed in enumerate(self.seeds) if seed not in failed], int)
        if 0 < len(kept) < len(self.seeds):
            self._keep_seeds(kept)
            self.seeds = [self.seeds[index] for index in kept]
            self._compile()


def _as_lists(metrics: Any) -> dict[str, Any]:
    return {name: np.asarray(value).tolist() for name, value in metrics.items()}
