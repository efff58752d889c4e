"""What a run can be resumed from: written whole or not at all, verified when read.

    checkpoints/
      step-000000500/            the training state at that env step
        state.safetensors        the algorithm's state, all seeds stacked
        episodes.safetensors     observation, next action, actions of the episode in progress
        run.json                 `RunState`: counters, seeds, positions of episodes and records
        manifest.json            `Manifest`: size and SHA-256 of these and of the replay's segments
      replay/
        000000000-000000500.safetensors     transitions [0, 500) of every seed

Arrays are safetensors, everything else JSON; nothing is ever unpickled. The sums find damage. A
forged file with a right sum is refused or read, but runs no code.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dime.envs.spaces import Spaces
from dime.errors import DimeError, require

Arrays = dict[str, np.ndarray]
_COUNTERS = 2**31  # counters are int32 in the compiled programs, and seeds below it


class DamagedError(DimeError):
    """A file of a checkpoint is missing or is not what was written."""


@dataclass(frozen=True)
class Digest:
    """What a manifest says of a file."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Segment(Digest):
    """A file of the replay: transitions [start, stop)."""

    start: int
    stop: int
    file: str

    def __post_init__(self):
        expected = segment_name(self.start, self.stop)
        require(  # a file of another name could be anywhere
            0 <= self.start < self.stop and self.file == expected,
            f"the replay's segment {self.file!r:.80} is not {expected}.",
        )


def segment_name(start: int, stop: int) -> str:
    """The file of transitions [start, stop)."""
    return f"{start:09d}-{stop:09d}.safetensors"


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json."""

    format_version: int
    files: dict[str, Digest]
    replay: list[Segment]

    def __post_init__(self):
        names = {"state.safetensors", "episodes.safetensors", "run.json"}
        require(set(self.files) == names, f"files are {sorted(self.files)!r:.200}.")
        joined = all(one.stop == other.start for one, other in pairwise(self.replay))
        require(joined, "there are gaps between the replay's segments.")


@dataclass(frozen=True)
class EpisodePosition:
    """The episode in progress of a seed, and the last one that ended."""

    number: int
    episode_return: float
    last_return: float | None
    last_length: int | None


@dataclass(frozen=True)
class FailedSeed:
    """When a seed failed, and why."""

    env_step: int
    reason: str


@dataclass(frozen=True)
class RunState:
    """The content of run.json. Fields with a default are missing in older checkpoints."""

    env_step: int
    updates: int
    seeds: list[int]
    spaces: Spaces
    episodes: list[EpisodePosition]
    last_evaluation_step: int | None
    record_bytes: dict[str, int]
    wall_time_s: float
    last_evaluation: dict[str, dict[str, float]]
    failed_seeds: dict[str, FailedSeed]
    env_restarts: dict[str, int] = field(default_factory=dict)
    unrepeatable: str | None = None
    learnt_env_step: int | None = None
    """With `--overlap`: the env step whose updates were made last."""
    on_device: bool = False
    """Whether the episodes' arrays are the states of environments that JAX computes."""
    metrics: dict[str, list] | None = None

    def __post_init__(self):
        counters = [self.env_step, self.updates, *self.seeds]
        require(all(0 <= count < _COUNTERS for count in counters), "a counter is out of range.")
        sizes = self.record_bytes
        require(
            set(sizes) == {"metrics.jsonl", "evaluations.jsonl"} and min(sizes.values()) >= 0,
            f"record_bytes are {sizes!r:.80}.",
        )
        of_seeds = [set(self.seeds), self.seeds, self.episodes, *(self.metrics or {}).values()]
        require(
            len(self.seeds) > 0 and len({len(part) for part in of_seeds}) == 1,
            f"seeds are {self.seeds!r:.80}, with a number of episodes or metrics that differs.",
        )


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint in memory."""

    path: Path
    state: Arrays
    episodes: Arrays
    run: RunState
    segments: list[Segment]
    replay_files: list[tuple[Path, int]]
    """With the number of each one's first transition; none if the replay was not asked for."""
    state_sha256: str

    @property
    def env_step(self) -> int:
        """The env step it was saved at."""
        return self.run.env_step


def to_arrays(tree: Any) -> Arrays:
    """A pytree's leaves by their path, as NumPy arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def from_arrays(arrays: Arrays, template: Any, of: str = "algorithm") -> Any:
    """The pytree of `template`'s structure from its leaves by path; `of` is a word for errors.

    Raises `DimeError` if a leaf is missing, left over, or of another shape or type.
    """
    leaves = jax.tree_util.tree_leaves_with_path(template)
    expected = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    arrays = _with_present_names(arrays, expected)
    require_layout(arrays, expected, of)
    return jax.tree.unflatten(jax.tree.structure(template), [arrays[name] for name in expected])


def _with_present_names(arrays: Arrays, names: Collection[str]) -> Arrays:
    """The arrays under `names`, also if a checkpoint has them under those of earlier releases.

    There the policy and its optimiser were separate in the state, SAC's policy was its network,
    and a delayed policy's metrics were in the state.
    """
    present = {
        name: array
        for name, array in arrays.items()
        if name in names or not name.startswith(".policy_metrics[")
    }
    for name in set(names) - set(arrays):
        former = name.replace(".policy.module", ".policy", 1)
        former = former.replace(".policy.optimizer", ".policy_optimizer", 1)
        for candidate in (former, former.replace(".network", "", 1)):
            if candidate in present:
                present[name] = present.pop(candidate)
                break
    return present


def require_layout(found: Mapping[str, Any], expected: Mapping[str, Any], of: str) -> None:
    """Raises `DimeError` unless the arrays have the expected names, shapes and dtypes."""
    odd = sorted(set(found) ^ set(expected))[:3]
    require(not odd, f"The checkpoint's arrays do not fit this {of}; first: {odd}.")
    for name, wanted in expected.items():
        array = found[name]
        require(
            (tuple(array.shape), array.dtype) == (tuple(wanted.shape), wanted.dtype),
            f"The checkpoint's {name} is {array.dtype}{list(array.shape)}, "
            f"this {of}'s is {wanted.dtype}{list(wanted.shape)}.",
        )
