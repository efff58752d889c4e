"""Whether a run fits into memory, asked before anything is allocated."""

import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import jax

from dime.errors import require
from dime.training.config import TrainingConfig
from dime.training.programs import initialise, initialise_replay, seed_keys
from dime.types import Agent, EnvSpec

_MEMORY_FILE = Path("/proc/meminfo")
_LIMIT_FILE = Path("/sys/fs/cgroup/memory.max")  # of a container
_USE_FILE = Path("/sys/fs/cgroup/memory.stat")


def refuse_if_too_large(agent: Agent, config: TrainingConfig, spec: EnvSpec) -> None:
    """Raises `DimeError` where the seeds' replays and states do not fit into the device's memory.

    Counted are the replays, and the training states twice: an update has gradients and new
    parameters beside them. Names how many seeds, or else how many transitions, would fit.
    """
    capacity = config.effective_capacity
    row = _bytes_of(partial(initialise_replay, 1, spec, 1))
    state = 2 * _bytes_of(partial(initialise, agent, seed_keys(config.seeds[:1])))
    seed, available = capacity * row + state, available_bytes()
    needed, fitting = len(config.seeds) * seed, available // seed
    if fitting > 0:
        advice = f"At most {fitting} fit: fewer --seeds, or a smaller --replay-capacity."
    else:
        fitting = max(0, available - state) // row
        advice = f"One seed fits with a --replay-capacity of at most {fitting}."
    require(
        needed <= available,
        f"{len(config.seeds)} seeds need {_gb(needed)} of memory ({capacity} transitions of {row} "
        f"bytes and {_gb(state)} for training each); {_gb(available)} are available on "
        f"{jax.devices()[0]}. {advice}",
    )


def available_bytes() -> int:
    """What the device has left; on a CPU, what the machine or the container has."""
    device = jax.devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return max(0, int(min(_available_in_machine(), _available_in_container())))


def _available_in_machine() -> float:
    try:
        lines = dict(line.split(":") for line in _MEMORY_FILE.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _available_in_container() -> float:
    try:
        limit = int(_LIMIT_FILE.read_text())
        use = dict(line.split() for line in _USE_FILE.read_text().splitlines())
        return limit - int(use["anon"])  # files in memory are given up when it is needed
    except (OSError, ValueError, KeyError):  # no container, or without a limit ("max")
        return math.inf


def _bytes_of(make: Any) -> int:
    shapes = jax.tree.leaves(jax.eval_shape(make))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in shapes)


def _gb(count: int) -> str:
    return f"{count / 1e9:.3g} GB"
