"""For files that compile whole algorithms."""

import jax
import pytest


@pytest.fixture(scope="module")
def quick_compilation():
    """Programs that run a few times each: compiling them well would take longer than that."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
