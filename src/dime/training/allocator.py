"""How glibc hands out memory: kept between the calls of a program instead of asked for anew.

XLA allocates a program's working memory on a CPU at each call (173 MB at the paper's sizes for
dog-run). By default glibc maps it anew each time and the kernel clears it page by page: 42 000 page
faults and 0.1 s of system time per env step, on two cores a tenth of the whole. Only the heap of
the main thread can keep so much, hence `dispatch_from_this_thread`. (One heap for all threads would
do too, but costs small networks 40 %.) Elsewhere than with glibc, or where the environment says how
it is to allocate (`MALLOC_...`, `GLIBC_TUNABLES`), nothing is changed.
"""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import jax

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # numbers of mallopt's options (malloc.h)
_NEVER = -1
_DEFAULTS = {_TRIM_THRESHOLD: 128 * 1024, _MMAP_MAX: 65_536}


def dispatch_from_this_thread() -> None:
    """Before JAX computes anything: a CPU's programs run, and allocate, where they are called.

    The loop waits for the next action anyway; only with `overlap` it has something else to do.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # pyright: ignore[reportArgumentType]


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside, freed memory stays with the process; see `dispatch_from_this_thread`."""
    if jax.default_backend() != "cpu" or not _may_be_changed():
        yield
        return
    libc = _libc()
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        for option, value in _DEFAULTS.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)


def _may_be_changed() -> bool:
    is_said = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    return platform.libc_ver()[0] == "glibc" and not is_said


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
