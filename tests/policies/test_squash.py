"""The log determinant of tanh, also where tanh has saturated."""

import jax
import jax.numpy as jnp
import numpy as np

from dime.policies.tanh_gaussian import tanh_log_det


def test_is_the_log_of_the_derivative():
    u = jnp.linspace(-4.0, 4.0, 41)[:, None]
    slope = jax.vmap(jax.grad(jnp.tanh))(u[:, 0])
    np.testing.assert_allclose(tanh_log_det(u), jnp.log(slope), rtol=1e-4, atol=1e-6)


def test_sums_over_the_action():
    u = jnp.array([[0.1, -0.5, 2.0], [0.0, 0.0, 0.0]])
    expected = np.log(1.0 - np.tanh(np.asarray(u, np.float64)) ** 2).sum(axis=-1)
    np.testing.assert_allclose(tanh_log_det(u), expected, rtol=1e-5, atol=1e-7)


def test_large_latents_stay_finite_with_the_right_gradient():
    # log(1 - tanh^2) goes to 2 log 2 - 2|u|; 1 - tanh(u)^2 is 0 in float32 from |u| of 10 on.
    u = jnp.array([-1e4, -50.0, -10.0, 10.0, 50.0, 1e4])[:, None]
    expected = 2.0 * np.log(2.0) - 2.0 * np.abs(np.asarray(u[:, 0], np.float64))
    np.testing.assert_allclose(tanh_log_det(u), expected, rtol=1e-6)
    gradient = jax.grad(lambda u: tanh_log_det(u).sum())(u)
    np.testing.assert_allclose(gradient, -2.0 * jnp.sign(u), rtol=1e-5)
