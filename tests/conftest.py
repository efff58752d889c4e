"""What every test runs under: shapes checked, reused random keys refused, warnings as errors.

Tests compile more than they compute. So programs are compiled quickly, without optimisation, and
kept between runs of the suite in `.test-cache`; child processes inherit both. A test that compares
bits with optimised programs, or that computes for long, asks for the fixture `optimised`.
"""

import itertools
import os
from pathlib import Path

CACHE = Path(__file__).parents[1] / ".test-cache"
os.environ |= {
    "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"),
    "JAX_COMPILATION_CACHE_DIR": str(CACHE / "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
}

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from tests.promises import pytest_collection_modifyitems, pytest_terminal_summary  # noqa: E402, F401

MATHEMATICS = ("algorithms", "critics", "diffusion", "networks", "policies", "types", "updates")
jaxtyping.install_import_hook(
    [f"dime.{name}" for name in MATHEMATICS],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)
jax.config.update("jax_debug_key_reuse", True)
# How long an example takes says more about what else the machine is doing.
settings.register_profile("dime", deadline=None)
settings.load_profile("dime")


@pytest.fixture(scope="module")
def optimised():
    """Programs compiled as users run them, in this process and its children."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS")
        jax.config.update("jax_disable_most_optimizations", False)
        yield
        jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="module", autouse=True)
def release_compiled_programs():
    """A whole suite's programs would fill gigabytes; the next module finds them on the disk."""
    yield
    jax.clear_caches()


def pytest_sessionfinish(session):
    """Of the kept programs the oldest go, beyond 1 GB."""
    if hasattr(session.config, "workerinput"):  # one of several processes; the first one does it
        return
    files = sorted(CACHE.rglob("*-cache"), key=lambda file: file.stat().st_mtime, reverse=True)
    sizes = itertools.accumulate(file.stat().st_size for file in files)
    for file, size in zip(files, sizes, strict=True):
        if size > 2**30:
            file.unlink(missing_ok=True)
