"""General bridges, and the log-variance loss of a chain."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.policies.diffusion import BridgePolicyConfig, DiffusionPolicy, DiffusionPolicyConfig
from dime.types import EnvSpec
from dime.updates.max_entropy import log_variance_policy_loss

SPEC = EnvSpec(obs_dim=3, action_dim=2)
SIZES = {"num_denoising_steps": 5, "hidden_dim": 8, "num_hidden_layers": 2}


def key(number=1):
    return jax.random.key(number)


OBS = jax.random.normal(jax.random.key(9), (16, 3))
sample = jax.jit(DiffusionPolicy.sample)
sample_detached = jax.jit(DiffusionPolicy.sample_detached)


def with_output(policy, scale, where=lambda p: p.control.output.kernel):
    kernel = scale * jax.random.normal(jax.random.key(7), where(policy).shape)
    return eqx.tree_at(where, policy, kernel)


def dime():
    return with_output(DiffusionPolicyConfig(**SIZES).make(SPEC, key()), 2.0)


def bridge(noising_scale):
    """The bridge whose denoising side is `dime()`."""
    made = with_output(BridgePolicyConfig(**SIZES).make(SPEC, key()), 2.0)
    return with_output(made, noising_scale, lambda p: p.noising_control.output.kernel)


def test_with_the_second_network_at_zero_it_is_dime_bit_for_bit():
    ours, theirs = sample(bridge(0.0), OBS, key()), sample(dime(), OBS, key())
    for name in ("action", "log_prob", "log_prior"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)

    def loss(policy):
        drawn = policy.sample(OBS, key())
        return drawn.log_prob.mean() + drawn.action.sum()

    gradient = jax.jit(jax.grad(loss))
    ours, theirs = gradient(bridge(0.0)), gradient(dime())
    for a, b in zip(*map(jax.tree.leaves, (ours.control, theirs.control)), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(ours.raw_step_scale, theirs.raw_step_scale, rtol=1e-5)
    np.testing.assert_allclose(ours.raw_dim_divisor, theirs.raw_dim_divisor, rtol=1e-5)


def test_the_second_network_moves_the_bound_and_not_the_action():
    ours, theirs = sample(bridge(1.0), OBS, key()), sample(dime(), OBS, key())
    np.testing.assert_allclose(ours.action, theirs.action, rtol=1e-6)
    assert jnp.abs(ours.log_prob - theirs.log_prob).min() > 1e-3


def test_the_second_network_is_seen_at_the_next_latent_and_step():
    policy = bridge(1.0)
    chain = jax.jit(DiffusionPolicy.draw)(policy, OBS, key())
    eta, prior = policy.step_sizes(), policy.prior_std**2
    control = policy.control.bind(OBS, 5)
    noising = policy.noising_control.bind(OBS, 6)
    ratio = 0.0
    for n in range(5):
        here, there = chain.latents[n], chain.latents[n + 1]
        ahead = here + eta[n] * (control(here, jnp.int32(n)) - here / prior)
        back = there + eta[n] * (noising(there, jnp.int32(n + 1)) - there / prior)
        ratio += (((there - ahead) ** 2 - (here - back) ** 2) / (4.0 * eta[n])).sum(axis=-1)
    np.testing.assert_allclose(chain.log_ratio, ratio, rtol=1e-3, atol=1e-4)


def test_importance_weights_average_to_one():
    # E[exp(log rho(u_N) + log_ratio - log prior)] = 1 for any controls, here rho = the prior.
    policy = bridge(0.3)
    obs = jnp.broadcast_to(OBS[0], (100_000, 3))
    chain = jax.jit(DiffusionPolicy.draw)(policy, obs, key())

    def log_prior(x):
        return -0.5 * (x**2).sum(axis=-1) / policy.prior_std**2

    weights = jnp.exp(log_prior(chain.latents[-1]) + chain.log_ratio - log_prior(chain.latents[0]))
    error = float(weights.std()) / np.sqrt(len(weights))
    assert abs(float(weights.mean()) - 1.0) < 5.0 * error < 0.1


@pytest.mark.parametrize("make", [dime, lambda: bridge(1.0)], ids=["dime", "bridge"])
def test_detached_samples_are_the_same_numbers(make):
    policy = make()
    ours, theirs = sample_detached(policy, OBS, key()), sample(policy, OBS, key())
    np.testing.assert_array_equal(ours.action, theirs.action)
    np.testing.assert_allclose(ours.log_prob, theirs.log_prob, rtol=1e-4, atol=1e-4)


def log_variance_gradient(policy, bonus, num_chains=6):
    obs = jnp.broadcast_to(OBS, (num_chains, *OBS.shape))

    def loss(policy):
        drawn = policy.sample_detached(obs, key())
        value = -3.0 * (drawn.action**2).sum(axis=-1) + bonus
        return log_variance_policy_loss(drawn.log_prob, value, jnp.float32(0.5))

    return jax.jit(jax.grad(loss))(policy)


def test_a_constant_per_state_in_q_leaves_the_log_variance_gradient_alone():
    plain = log_variance_gradient(dime(), jnp.zeros(16))
    shifted = log_variance_gradient(dime(), jnp.linspace(-50.0, 50.0, 16))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(shifted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4 * float(jnp.abs(a).max() + 1e-6))


def test_what_is_detached_gets_no_gradient_and_the_control_does():
    gradient = log_variance_gradient(dime(), jnp.zeros(16))
    assert not gradient.raw_step_scale.any() and not gradient.raw_dim_divisor.any()
    assert gradient.control.output.kernel.any()


def test_log_variance_in_closed_form():
    log_prob = jnp.array([[1.0, 5.0], [3.0, 5.0]])
    value = jnp.array([[2.0, 7.0], [2.0, 9.0]])
    # Of state 0: (1 - 1, 3 - 1), of state 1: (5 - 3.5, 5 - 4.5); variances 1 and 0.25.
    loss = log_variance_policy_loss(log_prob, value, jnp.float32(2.0))
    assert float(loss) == pytest.approx(0.5 * (1.0 + 0.25) / 2)
