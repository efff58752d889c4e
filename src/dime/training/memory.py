"""Whether a run fits into memory, asked before anything is allocated."""

import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import jax

from dime.errors import DimeError
from dime.training.config import TrainingConfig
from dime.training.host.programs import initialise, initialise_replay, seed_keys
from dime.training.replay import Storage
from dime.types import Agent, EnvSpec

_MEMORY_FILE = Path("/proc/meminfo")
_LIMIT_FILE = Path("/sys/fs/cgroup/memory.max")  # of a container
_USE_FILE = Path("/sys/fs/cgroup/memory.stat")


def refuse_if_too_large(
    agent: Agent, config: TrainingConfig, spec: EnvSpec, num_seeds: int
) -> None:
    """Raises `DimeError` where the seeds' replays and states do not fit into the device's memory.

    Counted are the replays, the minibatches that are drawn together, and the training states twice:
    an update has gradients and new parameters beside them. Names how many seeds, or else how many
    transitions, would fit.
    """
    capacity, storage = config.effective_capacity, config.storage
    replay = _bytes_of(partial(initialise_replay, storage, spec, 1))
    row = -(-replay // capacity)
    state = 2 * _bytes_of(partial(initialise, agent, seed_keys(config.seeds[:1])))
    drawn = config.updates_per_turn * config.batch_size * agent.batches_per_update
    state += drawn * _bytes_of(partial(initialise_replay, Storage(1), spec, 1))
    seed, available = replay + state, available_bytes()
    if num_seeds * seed <= available:
        return
    raise DimeError(
        f"{num_seeds} seeds need {_gb(num_seeds * seed)} of memory ({capacity} transitions of "
        f"{row} bytes and {_gb(state)} for training each); {_gb(available)} are available on "
        f"{jax.devices()[0]}. {_advice(available, seed, state, row)}"
    )


def _advice(available: float, seed: int, state: int, row: int) -> str:
    if available >= seed:
        return (
            f"At most {available // seed:.0f} fit: fewer seeds, a smaller replay_capacity, or "
            "--replay-dtype float16."
        )
    if available >= state + row:
        fitting = (available - state) // row
        return f"One seed fits with a replay_capacity of at most {fitting:.0f}."
    return "Not even one seed fits without its replay: smaller networks, or a larger machine."


def available_bytes() -> float:
    """What the device has left; on a CPU, what the machine has, or its container (cgroup v2).

    Infinite for an accelerator that does not say.
    """
    device = jax.devices()[0]
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        return stats.get("bytes_limit", math.inf) - stats.get("bytes_in_use", 0)
    return max(0, min(_available_in_machine(), _available_in_container()))


def _available_in_machine() -> float:
    try:
        lines = dict(line.split(":") for line in _MEMORY_FILE.read_text().splitlines())
        return 1024 * sum(int(lines[name].split()[0]) for name in ("MemAvailable", "SwapFree"))
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


def _gb(count: float) -> str:
    return f"{count / 1e9:.3g} GB"
