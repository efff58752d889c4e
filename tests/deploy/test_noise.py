"""Noise as inputs: the same function, given what its keys would have drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.deploy.noise import Noise, drawn_noise, known_values, noise_of, with_noise
from dime.errors import DimeError

X = np.linspace(-1.0, 1.0, 4, dtype=np.float32)


def plain(x, key):
    first, second = jax.random.split(key)
    return x + jax.random.normal(first, x.shape) * jax.random.gumbel(second, x.shape)


def in_a_scan(x, key, reverse=False):
    """Keys that are derived in the loop and keys that it goes over; a call inside."""

    def one(carry, inputs):
        index, given = inputs
        draw = jax.random.normal(jax.random.fold_in(key, index), x.shape)
        carry = jax.jit(jnp.sin)(carry) + draw * jax.random.normal(given, x.shape)
        return carry, carry * index

    keys = jax.random.split(jax.random.fold_in(key, 7), 3)
    last, all_of_them = jax.lax.scan(one, x, (jnp.arange(3), keys), reverse=reverse)
    return last + all_of_them.sum(axis=0) * jnp.arange(3.0)[-1]


def backwards(x, key):
    return in_a_scan(x, key, reverse=True)


def traced(function):
    return jax.make_jaxpr(function)(X, jax.random.key(0))


@pytest.mark.parametrize("function", [plain, in_a_scan, backwards])
def test_given_the_noise_of_a_key_the_result_is_that_of_the_key(function):
    jaxpr = traced(function)
    noise = drawn_noise(jaxpr, [X, jax.random.key(5)])
    assert [each.shape for each in noise] == [each.shape for each in noise_of(jaxpr.jaxpr)]
    (result,) = with_noise(jaxpr, [X, None], noise)
    with jax.debug_key_reuse(False):
        np.testing.assert_allclose(result, function(X, jax.random.key(5)), rtol=1e-5, atol=1e-6)
    (other,) = with_noise(jaxpr, [X, None], [each + 1.0 for each in noise])
    assert (other != result).all()


def test_what_is_drawn():
    assert noise_of(traced(plain).jaxpr) == [Noise("normal", (4,)), Noise("gumbel", (4,))]
    assert noise_of(traced(in_a_scan).jaxpr) == [Noise("normal", (3, 4))] * 2


def test_what_remains_has_no_keys_and_no_loops():
    jaxpr = traced(in_a_scan)
    noise = [np.zeros(shape, np.float32) for _, shape in noise_of(jaxpr.jaxpr)]
    rest = jax.make_jaxpr(lambda x, *given: with_noise(jaxpr, [x, None], given))(X, *noise)
    names = {equation.primitive.name for equation in rest.jaxpr.eqns}
    assert names.isdisjoint({"scan", "jit", "random_fold_in", "random_bits"})
    assert "sin" in names


def test_what_depends_on_no_input_can_be_computed_before():
    jaxpr = traced(lambda x, key: x * jnp.cumprod(jnp.arange(1.0, 5.0)) + plain(x, key))
    known = known_values(jaxpr)
    assert any(np.array_equal(value, [1.0, 2.0, 6.0, 24.0]) for value in known.values())
    noise = drawn_noise(jaxpr, [X, jax.random.key(5)])
    rest = jax.make_jaxpr(lambda x, *given: with_noise(jaxpr, [x, None], given, known))(X, *noise)
    assert {"cumprod", "iota"}.isdisjoint(equation.primitive.name for equation in rest.jaxpr.eqns)
    found, expected = (with_noise(jaxpr, [X, None], noise, each) for each in (known, None))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, key: x + jax.random.uniform(key, x.shape),
        lambda x, key: x + jax.random.normal(jax.random.key(x[0].astype(int)), x.shape),
        lambda x, key: jax.lax.cond(
            x[0] > 0, lambda: x + jax.random.normal(key, x.shape), lambda: x
        ),
    ],
    ids=["uniform", "key of the input", "branch"],
)
def test_other_random_numbers_are_refused(function):
    with pytest.raises(DimeError, match="draws random numbers in a way"):
        noise_of(traced(function).jaxpr)
