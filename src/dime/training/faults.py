"""Faults that do not end a run: seeds that fail, a support too narrow."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import safetensors.numpy

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


def state_of(state: Any, index: int) -> Any:
    """The state of the seed at this place, on the host."""
    return jax.device_get(jax.tree.map(lambda leaf: leaf[index], state))


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
