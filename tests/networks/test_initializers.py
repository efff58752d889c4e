"""How layers start: the moments and bounds that each distribution promises."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dime.networks.layers import (
    lecun,
    normal_with,
    orthogonal_with,
    truncated_normal_with,
    uniform_fan_in,
    xavier,
)

IN, OUT = 400, 100
CUT_STD = stats.truncnorm(-2.0, 2.0).std()  # 0.88
DISTRIBUTIONS = {  # standard deviation times sqrt(IN), and the largest entry times sqrt(IN)
    "lecun": (lecun, 1.0, 2.0 / CUT_STD),
    "xavier": (xavier, np.sqrt(2.0 * IN / (IN + OUT)), np.sqrt(6.0 * IN / (IN + OUT))),
    "truncated": (truncated_normal_with(0.5), 0.5 * CUT_STD, 1.0),
    "uniform": (uniform_fan_in, 1.0 / np.sqrt(3.0), 1.0),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_kernels_have_the_laws_width_and_ends(name):
    start, std, largest = DISTRIBUTIONS[name]
    kernel, bias = start(jax.random.key(0), IN, OUT)
    assert (kernel.shape, bias.shape) == ((IN, OUT), (OUT,))
    scaled = np.sqrt(IN) * np.asarray(kernel)
    assert scaled.mean() == pytest.approx(0.0, abs=0.02)
    assert scaled.std() == pytest.approx(std, rel=0.02)
    assert 0.99 * largest < np.abs(scaled).max() <= 1.0001 * largest


def test_normal_kernels_are_not_cut():
    kernel, bias = normal_with(0.5)(jax.random.key(0), IN, OUT)
    scaled = np.sqrt(IN) * np.asarray(kernel).ravel()
    assert stats.kstest(scaled, stats.norm(scale=0.5).cdf).pvalue > 0.01
    assert (np.abs(scaled) > 1.0).mean() == pytest.approx(0.0455, rel=0.1)  # beyond 2 deviations
    np.testing.assert_array_equal(bias, jnp.zeros(OUT))


@pytest.mark.parametrize("name", [name for name in DISTRIBUTIONS if name != "uniform"])
def test_biases_are_zero(name):
    _, bias = DISTRIBUTIONS[name][0](jax.random.key(1), 3, 5)
    np.testing.assert_array_equal(bias, jnp.zeros(5))


def test_uniform_biases_have_the_kernels_law_and_draws_of_their_own():
    kernel, bias = uniform_fan_in(jax.random.key(2), 4, 2_000)
    assert 0.49 < float(jnp.abs(bias).max()) <= 0.5
    assert float(bias.std()) == pytest.approx(0.5 / np.sqrt(3.0), rel=0.05)
    assert abs(np.corrcoef(kernel[0], bias)[0, 1]) < 0.1


@pytest.mark.parametrize("shape", [(8, 3), (3, 8), (5, 5)], ids=str)
def test_orthogonal_kernels_turn_and_scale(shape):
    kernel, bias = orthogonal_with(0.01)(jax.random.key(3), *shape)
    np.testing.assert_allclose(np.linalg.svd(kernel, compute_uv=False), 0.01, rtol=1e-5)
    np.testing.assert_array_equal(bias, jnp.zeros(shape[1]))


@pytest.mark.parametrize("shape", [(8, 3), (3, 8), (64, 64)], ids=str)
def test_orthogonal_kernels_are_the_librarys_without_its_decomposition(shape):
    kernel, _ = orthogonal_with(2.0)(jax.random.key(3), *shape)
    library = jax.nn.initializers.orthogonal(2.0)(jax.random.key(3), shape, jnp.float32)
    np.testing.assert_allclose(kernel, library, atol=2e-5)
    assert "qr" not in primitives(lambda key: orthogonal_with(2.0)(key, *shape))
    assert "qr" in primitives(lambda key: jax.nn.initializers.orthogonal()(key, shape))


def primitives(start):
    """Names in the traced program."""
    return set(re.findall(r"\w+", str(jax.make_jaxpr(start)(jax.random.key(3)))))
