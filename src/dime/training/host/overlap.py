"""Learning while the environments step (`--overlap`)."""

from typing import Any

import numpy as np

from dime.training.checkpoint import Arrays, Checkpoint
from dime.training.faults import Event, SeedFailure, poisoned
from dime.training.host.learners import HostLearners
from dime.training.host.programs import Learned, counters


class OverlapLearners(HostLearners):
    """The updates of an env step are made while the environments take the next one."""

    # The newest env step whose updates were made. It is saved: an environment that fails may leave
    # its learner ahead, and nothing must be learned twice.
    _learned_step = 0

    def _restore(self, checkpoint: Checkpoint) -> list[Event]:
        learned = checkpoint.run.learnt_env_step
        self._learned_step = self.env_step if learned is None else learned
        return super()._restore(checkpoint)

    def step(self, at_most: int = 1) -> list[Event]:
        """One env step of every seed, the updates of the one before, the next actions."""
        self._start_environments()
        learned = self._learn() if self._updates_are_due() else None
        observed, events = self._step_environments()
        if learned is not None:
            quantities, finite = sorted(learned.metrics), np.asarray(learned.finite)
            events += poisoned(self.seeds, self.state, quantities, finite, self.env_step)
        failed = {event.seed for event in events if isinstance(event, SeedFailure)}
        if failed >= set(self.seeds):
            return events
        transition, _ = self._complete(observed, events)
        return events + self._store_and_act(transition)

    def _updates_are_due(self) -> bool:
        return self.config.learns_after(self.env_step) and self._learned_step < self.env_step

    def _learn(self) -> Learned:
        """Sends off the updates of the newest env step; nothing here waits for them."""
        at = counters(self.env_step, self.update)
        learned = self._programs.learn(self.state, self.replay, self._keys, at)
        self._keep(learned)
        self._learned_step = self.env_step
        return learned

    def snapshot(self) -> tuple[Arrays, Arrays, dict[str, Any]]:
        """As in `HostLearners`, and how far learning lags."""
        state, episodes, run = super().snapshot()
        return state, episodes, run | {"learnt_env_step": self._learned_step}
