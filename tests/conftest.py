"""What every test runs under: shapes checked, reused random keys refused, warnings as errors."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # the user's own is left alone

import jax  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from tests.promises import pytest_collection_modifyitems, pytest_terminal_summary  # noqa: E402, F401

jax.config.update("jax_debug_key_reuse", True)
# How long an example takes says more about what else the machine is doing.
settings.register_profile("dime", deadline=None)
settings.load_profile("dime")


@pytest.fixture(scope="module")
def quick_compilation():
    """For programs that run a few times each: compiling them well would take longer than that."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module", autouse=True)
def release_compiled_programs():
    """A whole run's programs would fill gigabytes; no two modules share enough to keep them."""
    yield
    jax.clear_caches()
