"""Every algorithm in every mode, in both formats and with any batch; minutes: `pytest -m soak`."""

import jax
import jaxtyping
import pytest

from dime.algorithms.registry import ALGORITHMS
from dime.deploy.export import write_export
from dime.errors import DimeError
from tests.deploy.made import policy_of

pytestmark = [pytest.mark.soak, pytest.mark.promise("R14")]
EACH = [(name, mode) for name, algorithm in ALGORITHMS.items() for mode in algorithm.modes]


@pytest.fixture(autouse=True)
def without_shapes():
    """The check of shapes takes a symbolic size for none."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
    jax.clear_caches()


@pytest.mark.parametrize("batch", [5, "dynamic"])
@pytest.mark.parametrize("format", ["stablehlo", "onnx"])
@pytest.mark.parametrize(("name", "mode"), EACH)
def test_it_acts_as_the_policy_or_says_why_not(name, mode, format, batch, tmp_path):
    policy = policy_of(name, mode, tmp_path)
    if (mode, format) == ("observation_seeded", "onnx"):
        with pytest.raises(DimeError, match="random_seed"):
            write_export(policy, tmp_path / "policy", format, batch, None)
    else:
        write_export(policy, tmp_path / "policy", format, batch, None)  # compares
