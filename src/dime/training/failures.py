"""Seeds that fail: why they stopped, and what is kept of them for a post-mortem."""

import traceback
from dataclasses import dataclass
from pathlib import Path

import safetensors.numpy

from dime.errors import DimeError, describe
from dime.training.checkpoint.files import Arrays
from dime.training.records import write_bytes, write_json


@dataclass(frozen=True)
class SeedFailure:
    """Why a seed stopped, and its state then.

    `poisoned` where the state is no longer that of before the failure; `details` is the
    environment's own traceback.
    """

    env_step: int
    reason: str
    details: str
    poisoned: bool
    state: Arrays


def failure_of(error: Exception, env_name: str, env_step: int, state: Arrays) -> SeedFailure:
    """The failure that an environment's exception makes."""
    when = f"(after env step {env_step})"
    if isinstance(error, DimeError):
        return SeedFailure(env_step, f"{error} {when}", "", False, state)
    reason = f"{env_name} raised {describe(error)} {when}"
    details = "".join(traceback.format_exception(error))
    return SeedFailure(env_step, reason, details, False, state)


def save_failure(folder: Path, seed: int, failure: SeedFailure) -> Path:
    """Writes `failures/seed-K/` with the seed's state and the reason; returns the folder."""
    place = folder / f"seed-{seed}"
    place.mkdir(parents=True, exist_ok=True)
    write_bytes(place / "state.safetensors", safetensors.numpy.save(failure.state))
    write_json(
        place / "failure.json",
        {"seed": seed, "env_step": failure.env_step, "reason": failure.reason},
    )
    if failure.details:
        write_bytes(place / "traceback.txt", failure.details.encode(errors="backslashreplace"))
    return place
