"""Hand-written derivatives against the library's functions and automatic rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.networks.layers import gelu, mish

X = jnp.concatenate([jnp.linspace(-12.0, 12.0, 2001), jnp.array([-1e4, -0.0, 1e-6, 1e4])])


def gelu_of_library(x):
    return jax.nn.gelu(x, approximate=True)


each = pytest.mark.parametrize(
    "ours, library", [(gelu, gelu_of_library), (mish, jax.nn.mish)], ids=["gelu", "mish"]
)


@each
def test_value_is_the_librarys(ours, library):
    np.testing.assert_allclose(ours(X), library(X), rtol=1e-6, atol=1e-6)


def test_gelu_is_the_tanh_form():
    exact = jax.nn.gelu(X, approximate=False)
    assert jnp.abs(gelu(X) - exact).max() > 1e-4  # the test can tell the two forms apart


@each
@pytest.mark.parametrize("order", [1, 2])
def test_derivatives_are_those_of_automatic_differentiation(order, ours, library):
    reference = library
    for _ in range(order):
        ours, reference = jax.grad(ours), jax.grad(reference)
    ours, reference = (jax.jit(jax.vmap(f))(X[:-4]) for f in (ours, reference))
    np.testing.assert_allclose(ours, reference, rtol=1e-5, atol=2e-6 * 5 ** (order - 1))


@pytest.mark.parametrize("activation, at_zero", [(gelu, 0.5), (mish, 0.6)])
def test_large_inputs_have_finite_derivatives(activation, at_zero):
    gradient = jax.vmap(jax.grad(activation))(X[-4:])
    np.testing.assert_allclose(gradient, [0.0, at_zero, at_zero, 1.0], atol=1e-5)


@each
def test_used_twice_under_vmap_and_scan(ours, library):
    def repeated(activation):
        def loss(x):
            def layer(carry, _):
                return activation(1.5 * activation(carry) - 0.3), None

            return jax.lax.scan(layer, x, length=4)[0]

        return jax.jit(jax.vmap(jax.value_and_grad(loss)))(jnp.linspace(-3.0, 3.0, 13))

    for value, reference in zip(repeated(ours), repeated(library), strict=True):
        np.testing.assert_allclose(value, reference, rtol=1e-5, atol=1e-6)


@each
def test_forward_mode(ours, library):
    _, tangent = jax.jvp(ours, (X[:-4],), (jnp.full(len(X) - 4, 2.0),))
    _, reference = jax.jvp(library, (X[:-4],), (jnp.full(len(X) - 4, 2.0),))
    np.testing.assert_allclose(tangent, reference, rtol=1e-5, atol=3e-6)
