"""Compiled programs kept between processes, so that a run after the first begins at once."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

_LARGEST = 2 * 2**30  # bytes; what was not used for longest is removed beyond that
_SHORTEST = 0.05  # seconds of compilation that are worth a file


def keep_compiled_programs() -> None:
    """Keeps programs that take 50 ms or more to compile in the user's cache folder.

    At most 2 GB of them; those that were not used for longest go first.

    JAX's own settings come first: `JAX_COMPILATION_CACHE_DIR=FOLDER` keeps them elsewhere, and
    `JAX_ENABLE_COMPILATION_CACHE=false` nowhere. The key of a program holds the versions, the
    options and the device, so a kept one is the one that would be compiled.
    """
    config: Any = jax.config  # whose options type checkers do not know
    if config.jax_compilation_cache_dir is not None or not config.jax_enable_compilation_cache:
        return
    with suppress(OSError, RuntimeError):  # no home, or none to write to: compiled as before
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(caches, "dime", "compiled")
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            config.update("jax_compilation_cache_max_size", _LARGEST)
            config.update("jax_compilation_cache_dir", str(folder))
            if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
                config.update("jax_persistent_cache_min_compile_time_secs", _SHORTEST)
