"""The machine a run uses: its memory, how glibc hands it out, and programs kept between runs.

XLA allocates a program's working memory on a CPU at each call. By default glibc maps it again each
time and the kernel clears it page by page, at dog-run's sizes a tenth of the time. Only the heap of
the main thread can keep so much, hence `dispatch_from_this_thread`. (One heap for all threads would
do too, but costs small networks 40 %.) If the environment says how to allocate (`MALLOC_...`,
`GLIBC_TUNABLES`), nothing is changed.
"""

import ctypes
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import jax

from dime.errors import DimeError
from dime.training.config import TrainingConfig
from dime.training.host.programs import initialise, seed_keys
from dime.training.replay import empty_replay
from dime.types import Agent, EnvSpec

_DEFAULTS = {-1: 128 * 1024, -4: 65_536}  # mallopt: M_TRIM_THRESHOLD, M_MMAP_MAX (malloc.h)


def dispatch_from_this_thread() -> None:
    """Before JAX computes anything: a CPU's programs run, and allocate, in the calling thread.

    The loop waits for the next action anyway; only with `overlap` it has something else to do.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # pyright: ignore[reportArgumentType]


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside, freed memory stays with the process; see `dispatch_from_this_thread`."""
    chosen = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if jax.default_backend() != "cpu" or chosen:
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(-1, -1)  # never trimmed
    libc.mallopt(-4, 0)  # never mapped
    try:
        yield
    finally:
        for option, value in _DEFAULTS.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)


def keep_compiled_programs() -> None:
    """Keeps programs that take 50 ms or more to compile in the user's cache folder, at most 2 GB.

    JAX's own settings come first: `JAX_COMPILATION_CACHE_DIR=FOLDER` keeps them elsewhere, and
    `JAX_ENABLE_COMPILATION_CACHE=false` nowhere.
    """
    config: Any = jax.config  # whose options type checkers do not know
    if config.jax_compilation_cache_dir is not None or not config.jax_enable_compilation_cache:
        return
    with suppress(OSError, RuntimeError):  # no home, or none to write to: compiled as before
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(caches, "dime", "compiled")
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            config.update("jax_compilation_cache_max_size", 2 * 2**30)
            config.update("jax_compilation_cache_dir", str(folder))
            if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
                config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


_MEMORY_FILE = Path("/proc/meminfo")
_LIMIT_FILE = Path("/sys/fs/cgroup/memory.max")  # of a container
_USE_FILE = Path("/sys/fs/cgroup/memory.stat")


def refuse_if_too_large(
    agent: Agent, config: TrainingConfig, spec: EnvSpec, num_seeds: int
) -> None:
    """Raises `DimeError` if the seeds do not fit into the device's memory.

    Counted are the replays, the minibatches that are drawn together, and the training states twice:
    an update has gradients and new parameters beside them.
    """
    capacity = config.effective_capacity
    replay = _bytes_of(partial(empty_replay, config, spec))
    state = 2 * _bytes_of(partial(initialise, agent, seed_keys(config.seeds[:1])))
    drawn = config.updates_per_round * config.batch_size * agent.batches_per_update
    state += drawn * _bytes_of(partial(empty_replay, TrainingConfig(replay_capacity=1), spec))
    seed, available = replay + state, available_bytes()
    if num_seeds * seed <= available:
        return
    raise DimeError(
        f"{num_seeds} seeds need {_gb(num_seeds * seed)} of memory ({capacity} transitions of "
        f"{-(-replay // capacity)} bytes and {_gb(state)} for training each); {_gb(available)} are "
        f"available on {jax.devices()[0]}, enough for {available // seed:.0f}. Train fewer seeds, "
        "with a smaller replay_capacity, with --replay-dtype float16, or smaller networks."
    )


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
    lines = dict(line.split(":") for line in _MEMORY_FILE.read_text().splitlines())
    return 1024 * sum(int(lines[name].split()[0]) for name in ("MemAvailable", "SwapFree"))


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
