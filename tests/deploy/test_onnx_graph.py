"""Noise as inputs: the same action, given what the policy's keys would have drawn."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxpr_as_fun

from dime.deploy.onnx_graph import Noise, _traced, drawn_noise, noise_of
from dime.deploy.policy import Policy
from dime.envs.spaces import Leaf, Spaces
from dime.errors import DimeError
from dime.types import Agent

SPACES = Spaces("made", (Leaf((), (2,), "float32"),), (2,), "float32", (-1.0,) * 2, (1.0,) * 2)
X = np.linspace(-1.0, 1.0, 8, dtype=np.float32).reshape(4, 2)


def policy_of(act):
    """A policy that acts by `act(obs, key)`."""
    agent = Agent(init=None, act={"mode": lambda state, obs, key, at: act(obs, key)}, update=None)
    checkpoint = SimpleNamespace(env_step=0, run=SimpleNamespace(updates=0))
    restored = SimpleNamespace(
        agent=agent, spaces=SPACES, seeds=[0], state={}, checkpoint=checkpoint
    )
    return Policy(restored, 0, "mode", 5)


def plain(x, key):
    first, second = jax.random.split(key)
    return x + jax.random.normal(first, x.shape) * jax.random.gumbel(second, x.shape)


def in_a_scan(x, key, reverse=False):
    """Keys that are derived in the loop; a call inside."""

    def one(carry, index):
        draw = jax.random.normal(jax.random.fold_in(key, index), x.shape)
        carry = jax.jit(jnp.sin)(carry) + draw * jax.random.gumbel(
            jax.random.fold_in(key, index + 10), x.shape
        )
        return carry, carry * index

    last, all_of_them = jax.lax.scan(one, x, jnp.arange(3), reverse=reverse)
    return last + all_of_them.sum(axis=0) * jnp.arange(3.0)[-1]


def backwards(x, key):
    return in_a_scan(x, key, reverse=True)


def alike(x, key):
    return x + sum(jax.random.normal(each, x.shape) for each in jax.random.split(key, 3))


def one_of(x, key):
    return x + jax.random.categorical(key, x, axis=0)


@pytest.mark.parametrize("act", [plain, in_a_scan, backwards, alike, one_of])
def test_given_the_noise_of_a_key_the_action_is_that_of_the_key(act):
    policy = policy_of(act)
    noise, described = drawn_noise(policy, 4, 2), noise_of(policy, 4)
    assert [array.shape for array in noise] == [each.shape for each in described]
    function = jaxpr_as_fun(_traced(policy, 4, described))
    (result,) = function(X, *noise)
    np.testing.assert_allclose(np.clip(result, -1, 1), policy.act(X, 2), rtol=1e-5, atol=1e-6)
    (other,) = function(X, *(array[::-1] for array in noise))
    assert (other != result).any()


def test_what_is_drawn():
    assert noise_of(policy_of(plain), 4) == [Noise("normal", (4, 2)), Noise("gumbel", (4, 2))]
    assert noise_of(policy_of(alike), 4) == [Noise("normal", (3, 4, 2), 3)]
    assert len(noise_of(policy_of(in_a_scan), 4)) == 6


def test_what_remains_has_no_keys_and_no_loops():
    policy = policy_of(in_a_scan)
    traced = _traced(policy, 4, noise_of(policy, 4))
    names = {equation.primitive.name for equation in traced.jaxpr.eqns}
    assert names.isdisjoint({"scan", "jit", "random_fold_in", "random_bits"})
    assert "sin" in names


def test_jax_draws_as_ever_afterwards():
    before = jax.random.normal
    noise_of(policy_of(plain), 4)
    assert jax.random.normal is before


@pytest.mark.parametrize(
    "act",
    [
        lambda x, key: x + jax.random.uniform(key, x.shape),
        lambda x, key: x + jax.random.normal(jax.random.key(x[0, 0].astype(int)), x.shape),
        lambda x, key: jax.vmap(lambda row, key: row + jax.random.normal(key, row.shape))(
            x, jax.random.split(key, len(x))
        ),
    ],
    ids=["uniform", "key of the input", "vmap"],
)
def test_other_random_numbers_are_refused(act):
    policy = policy_of(act)
    with pytest.raises(DimeError, match="random numbers"):
        _traced(policy, 4, noise_of(policy, 4))
