"""How glibc hands out memory: kept between the calls of a program instead of asked for anew.

XLA allocates a program's working memory at each call (173 MB at the paper's sizes for dog-run). By
default glibc maps it anew each time and the kernel clears it page by page: 42 000 page faults and
0.1 s of system time per env step, on two cores an eighth of the whole. Elsewhere than with glibc,
or where the environment says how it is to allocate (`MALLOC_...`, `GLIBC_TUNABLES`), nothing is
changed.
"""

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # numbers of mallopt's options (malloc.h)
_LARGEST = 2**31 - 1


def share_one_heap() -> None:
    """Before JAX starts its threads: they get no heaps of their own, which cannot grow large."""
    _set(_ARENA_MAX, 1)


def keep_freed_memory() -> None:
    """From here on freed memory stays with the process, after `share_one_heap`.

    To be called when what is large and short-lived (a restored replay's files) is gone.
    """
    _set(_MMAP_MAX, 0)
    _set(_TRIM_THRESHOLD, _LARGEST)


def _set(option: int, value: int) -> None:
    is_said = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if platform.libc_ver()[0] == "glibc" and not is_said:
        ctypes.CDLL(None).mallopt(option, value)
