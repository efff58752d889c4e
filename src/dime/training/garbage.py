"""The collector of cyclic garbage, held where there is next to none."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Inside, Python looks for no cyclic garbage.

    Importing JAX and tracing programs make millions of objects that stay; looking through them
    again and again takes a sixth of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
