"""What every test runs under: shapes checked, reused random keys refused, warnings as errors.

Tests compile more than they compute. So programs are compiled quickly, without optimisation, and
kept between runs of the suite in `.test-cache`; child processes inherit both. A test that compares
bits with optimised programs, or that computes for long, asks for the fixture `optimised`.
"""

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
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from tests.promises import pytest_collection_modifyitems, pytest_terminal_summary  # noqa: E402, F401

jax.config.update("jax_debug_key_reuse", True)
# How long an example takes says more about what else the machine is doing.
settings.register_profile("dime", deadline=None)
settings.load_profile("dime")


@pytest.fixture(scope="module")
def optimised():
    """Programs compiled as users run them."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
