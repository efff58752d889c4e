"""GELU's hand-written derivative against the library's function and automatic rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.networks.activations import gelu

X = jnp.concatenate([jnp.linspace(-12.0, 12.0, 2001), jnp.array([-1e4, -0.0, 1e-6, 1e4])])


def library(x):
    return jax.nn.gelu(x, approximate=True)


def test_value_is_the_tanh_form():
    np.testing.assert_allclose(gelu(X), library(X), rtol=1e-6, atol=1e-7)
    exact = jax.nn.gelu(X, approximate=False)
    assert jnp.abs(gelu(X) - exact).max() > 1e-4  # the test can tell the two forms apart


@pytest.mark.parametrize("order", [1, 2])
def test_derivatives_are_those_of_automatic_differentiation(order):
    ours, reference = gelu, library
    for _ in range(order):
        ours, reference = jax.grad(ours), jax.grad(reference)
    ours, reference = (jax.jit(jax.vmap(f))(X[:-4]) for f in (ours, reference))
    np.testing.assert_allclose(ours, reference, rtol=1e-5, atol=2e-6)


def test_large_inputs_have_finite_derivatives():
    gradient = jax.vmap(jax.grad(gelu))(X[-4:])
    np.testing.assert_allclose(gradient, [0.0, 0.5, 0.5, 1.0], atol=1e-5)


def test_used_twice_under_vmap_and_scan():
    def repeated(activation):
        def loss(x):
            def layer(carry, _):
                return activation(1.5 * activation(carry) - 0.3), None

            return jax.lax.scan(layer, x, length=4)[0]

        return jax.jit(jax.vmap(jax.value_and_grad(loss)))(jnp.linspace(-3.0, 3.0, 13))

    for ours, reference in zip(repeated(gelu), repeated(library), strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-5, atol=1e-6)


def test_forward_mode():
    _, ours = jax.jvp(gelu, (X[:-4],), (jnp.full(len(X) - 4, 2.0),))
    _, reference = jax.jvp(library, (X[:-4],), (jnp.full(len(X) - 4, 2.0),))
    np.testing.assert_allclose(ours, reference, rtol=1e-5, atol=2e-6)
