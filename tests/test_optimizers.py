"""One optimiser step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dime.optimizers import gradient_step


def test_first_step_of_adam_has_the_learning_rates_size():
    parameters = {"a": jnp.array([1.0, -2.0]), "b": jnp.asarray(3.0)}
    gradient = {"a": jnp.array([3.0, -1e-2]), "b": jnp.asarray(4.0)}
    optimizer = optax.adam(0.1)
    stepped, state, norm = gradient_step(
        optimizer, gradient, optimizer.init(parameters), parameters
    )
    np.testing.assert_allclose(stepped["a"], [0.9, -1.9], rtol=1e-5)
    np.testing.assert_allclose(stepped["b"], 2.9, rtol=1e-5)
    assert state[0].count == 1
    assert float(norm) == pytest.approx(np.sqrt(9.0 + 1e-4 + 16.0))


def test_norm_is_that_of_the_gradient_before_clipping():
    optimizer = optax.chain(optax.clip(1.0), optax.sgd(1.0))
    parameters = jnp.zeros(2)
    gradient = jnp.array([30.0, 40.0])
    stepped, _, norm = gradient_step(optimizer, gradient, optimizer.init(parameters), parameters)
    np.testing.assert_allclose(stepped, [-1.0, -1.0])
    assert float(norm) == pytest.approx(50.0)


def test_descends_under_scan():
    optimizer = optax.adam(0.1)

    def step(carry, _):
        parameters, state = carry
        gradient = jax.grad(lambda p: ((p - 2.0) ** 2).sum())(parameters)
        parameters, state, norm = gradient_step(optimizer, gradient, state, parameters)
        return (parameters, state), norm

    start = jnp.array([5.0, -3.0])
    (end, _), norms = jax.lax.scan(step, (start, optimizer.init(start)), length=300)
    np.testing.assert_allclose(end, [2.0, 2.0], atol=1e-2)
    assert norms[-1] < 1e-2 < norms[0]
