"""Faults that do not end a run: environments that raise, seeds that fail, a support too narrow."""

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from dime.errors import DimeError, describe
from dime.training.checkpoint import to_arrays
from dime.training.records import write_bytes, write_json


@dataclass(frozen=True)
class SeedFailure:
    """Why a seed stopped, and its state then.

    `details` is the environment's traceback; `poisoned` if the state is not that of before the
    failure.
    """

    seed: int
    env_step: int
    reason: str
    details: str
    poisoned: bool
    state: Any


Event = SeedFailure | str
"""What a step reports; a text is a warning for the user."""


class Restarts:
    """How often the environments of a seed were re-created, in training and evaluations together.

    `counts` by seed, as run.json has them; `events` are the warnings that nobody has fetched yet.
    """

    def __init__(self, seed: int, limit: int = 0, counts: dict[str, int] | None = None):
        self.seed, self.limit = seed, limit
        self.counts = {} if counts is None else counts
        self.events: list[Event] = []

    def take(self, env_name: str, error: Exception, cost: str = "the episode is cut") -> bool:
        """Counts one; False if none is left, and nothing is counted.

        Also if the environment broke its own rules (a NaN, another shape): it would again, and
        its answer must not be hidden.
        """
        count = self.counts.get(str(self.seed), 0)
        if isinstance(error, DimeError) or count >= self.limit:
            return False
        self.counts[str(self.seed)] = count + 1
        text = (
            f"warning: {env_name} raised {describe(error).rstrip('.')}. It is re-created for seed "
            f"{self.seed} ({count + 1} of {self.limit} times), and {cost}.\n"
        )
        self.events.append(text + "".join(traceback.format_exception(error)))
        return True

    def fetch(self) -> list[Event]:
        """The warnings since the last call."""
        fetched, self.events = self.events, []
        return fetched


def state_of(state: Any, index: int) -> Any:
    """The state of the seed at this place, on the host."""
    return jax.device_get(jax.tree.map(lambda leaf: leaf[index], state))


def failure_of(
    seed: int, error: Exception, env_name: str, env_step: int, state: Any
) -> SeedFailure:
    """The failure that an environment's exception makes."""
    reason, details = str(error), ""
    if not isinstance(error, DimeError):
        reason = f"{env_name} raised {describe(error)}"
        details = "".join(traceback.format_exception(error))
    reason = f"{reason} (after env step {env_step})"
    return SeedFailure(seed, env_step, reason, details, False, state)


def poisoned(
    seeds: list[int], state: Any, quantities: list[str], finite: Any, env_steps: Any
) -> list[Event]:
    """The failures of seeds for which not all is `finite`, (seeds, quantities).

    `env_steps` says when: one for all seeds, or one for each.
    """
    failures: list[Event] = []
    for index in np.flatnonzero(~finite.all(axis=1)).tolist():
        env_step = int(np.broadcast_to(env_steps, len(seeds))[index])
        names = ", ".join(quantities[i] for i in np.flatnonzero(~finite[index]))
        reason = f"{names} became NaN or infinite at env step {env_step}"
        its_state = state_of(state, index)
        failures.append(SeedFailure(seeds[index], env_step, reason, "", True, its_state))
    return failures


def survivors(seeds: list[int], events: Sequence[Event]) -> np.ndarray | None:
    """The places of the seeds that continue; None if nothing changes: none failed, or all."""
    failed = {event.seed for event in events if isinstance(event, SeedFailure)}
    kept = np.array([place for place, seed in enumerate(seeds) if seed not in failed], int)
    return kept if 0 < len(kept) < len(seeds) else None


def save_failure(folder: Path, failure: SeedFailure) -> Path:
    """Writes `failures/seed-K/` with the seed's state and the reason; returns the folder."""
    place = folder / f"seed-{failure.seed}"
    place.mkdir(parents=True, exist_ok=True)
    write_bytes(place / "state.safetensors", safetensors.numpy.save(to_arrays(failure.state)))
    content = {"seed": failure.seed, "env_step": failure.env_step, "reason": failure.reason}
    write_json(place / "failure.json", content)
    if failure.details:
        write_bytes(place / "traceback.txt", failure.details.encode(errors="backslashreplace"))
    return place


_LARGEST_SHARE = 0.01
_RECORDS_IN_A_ROW = 2  # an untrained critic spreads its mass over the whole support


class SupportWatch:
    """Watches a run's records and warns once for each seed that returns are cut off."""

    def __init__(self) -> None:
        self._in_a_row: dict[int, int] = {}

    def warning(self, seed: int, metrics: Mapping[str, Any]) -> str | None:
        """The warning after these metrics of a seed; None if nothing is wrong, or it was given."""
        share, count = metrics.get("target_clipped_mass"), self._in_a_row.get(seed, 0)
        if share is None or count >= _RECORDS_IN_A_ROW:
            return None
        self._in_a_row[seed] = count + 1 if share > _LARGEST_SHARE else 0
        if self._in_a_row[seed] < _RECORDS_IN_A_ROW:
            return None
        of_returns = metrics.get("target_clipped_mass_of_returns", share)  # not in old checkpoints
        return (
            f"warning: seed {seed}: {share:.1%} of the critic's target mass lies outside of its "
            f"support and is cut off ({of_returns:.1%} without the entropy's term). Mean targets "
            f"of the newest minibatch lie in [{metrics['target_low']:.4g}, "
            f"{metrics['target_high']:.4g}]. Train with a wider support "
            "(--critic.v-min, --critic.v-max) or, if only the entropy's term does not fit, with a "
            "smaller --temperature.initial."
        )
