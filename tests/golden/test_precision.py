"""The program that measures lower precision on the golden numbers, itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden.arrays import FILES, Golden
from tests.golden.precision import MANTISSA_BITS, measure, rounded

X, W = (jax.random.normal(jax.random.key(i), (5, 5)) for i in range(2))


def product_as_bfloat16(x, w):
    x, w = (a.astype(jnp.bfloat16).astype(jnp.float32) for a in (x, w))
    return x @ w


def test_the_inputs_of_products_are_rounded_and_nothing_else():
    one = rounded(lambda x, w: jnp.exp(x) @ w + x, 7)(X, W)
    np.testing.assert_allclose(one, product_as_bfloat16(jnp.exp(X), W) + X, rtol=1e-6)
    exact = rounded(lambda x, w: jnp.exp(x) @ w + x, 23)(X, W)
    np.testing.assert_allclose(exact, jnp.exp(X) @ W + X, rtol=1e-6)
    assert not np.allclose(one, exact, rtol=1e-4)


def test_those_of_gradients_and_inside_scans_too():
    def loss(x, w):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, None, length=3)[0].sum()

    rounded_gradient = rounded(jax.grad(loss), 7)(X, W)
    exact = jax.grad(loss)(X, W)
    error = np.linalg.norm(rounded_gradient - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 3e-2
    gradient = rounded(jax.grad(lambda x: jnp.sum((x @ W) * 1.1)), 7)(X)
    expected = product_as_bfloat16(jnp.full((5, 5), 1.1), W.T)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


@pytest.mark.parametrize("precision", MANTISSA_BITS)
def test_errors_are_as_large_as_the_bits_make_them(precision):
    with np.load(FILES[0]) as arrays:
        errors = measure(Golden(dict(arrays)), precision)
    low, high = {"float32": (0, 1e-4), "tensorfloat32": (1e-5, 0.1), "bfloat16": (1e-4, 0.5)}[
        precision
    ]
    for name in ("action", "critic gradient", "policy gradient"):
        assert low < errors[name] < high
