"""The diffusion policy: what a sample is made of, the noiseless chain, what is trained."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.diffusion.controlled_sde import Chain
from dime.policies.diffusion import DiffusionPolicy, DiffusionPolicyConfig
from dime.types import EnvSpec

SPEC = EnvSpec(obs_dim=3, action_dim=2)
CONFIG = DiffusionPolicyConfig(num_denoising_steps=5, hidden_dim=8, num_hidden_layers=2)


@functools.cache
def random_policy(config=CONFIG):
    """With a control that is not nearly 0."""
    policy_key, output_key = jax.random.split(jax.random.key(0))
    policy = DiffusionPolicy(config, SPEC, policy_key)
    kernel = 2.0 * jax.random.normal(output_key, policy.control.output.kernel.shape)
    return eqx.tree_at(lambda p: p.control.output.kernel, policy, kernel)


def some_obs(*shape):
    return jax.random.normal(jax.random.key(9), (*shape, SPEC.obs_dim))


sample = jax.jit(DiffusionPolicy.sample)
mean_path = jax.jit(DiffusionPolicy.deterministic)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)], ids=str)
def test_shapes_and_range(shape):
    drawn = sample(random_policy(), some_obs(*shape), jax.random.key(1))
    assert drawn.action.shape == (*shape, SPEC.action_dim)
    assert drawn.log_prob.shape == drawn.log_prior.shape == drawn.running_cost.shape == shape
    assert jnp.abs(drawn.action).max() <= 1.0
    assert {leaf.dtype for leaf in drawn} == {jnp.dtype("float32")}
    np.testing.assert_allclose(
        drawn.running_cost, drawn.log_prob - drawn.log_prior, rtol=1e-6, atol=1e-6
    )


def test_weighs_a_chain_by_ratio_jacobian_and_prior():
    # Eqs. 15 and 59 written out; the latents are what they are, no chain has to lead there.
    latents = np.random.default_rng(0).normal(size=(CONFIG.num_denoising_steps + 1, 4, 2))
    log_ratio = np.array([0.3, -1.0, 2.0, 0.0])
    chain = Chain(jnp.asarray(latents, jnp.float32), jnp.asarray(log_ratio, jnp.float32))
    weighed = random_policy().weigh(chain)
    squash = np.log(1.0 - np.tanh(latents[-1]) ** 2).sum(axis=-1)
    variance = CONFIG.prior_std**2
    log_prior = -0.5 * (latents[0] ** 2 / variance + np.log(2 * np.pi * variance)).sum(axis=-1)
    np.testing.assert_allclose(weighed.action, np.tanh(latents[-1]), rtol=1e-5)
    np.testing.assert_allclose(weighed.log_prior, log_prior, rtol=1e-5)
    np.testing.assert_allclose(weighed.running_cost, -(log_ratio + squash), rtol=1e-4, atol=1e-5)
    expected = -(log_ratio + squash) + log_prior
    np.testing.assert_allclose(weighed.log_prob, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prior_std", [0.6, 2.5])
def test_expected_log_prior_is_minus_the_priors_entropy(prior_std):
    config = DiffusionPolicyConfig(
        num_denoising_steps=2, prior_std=prior_std, hidden_dim=4, num_hidden_layers=1
    )
    policy = random_policy(config)
    drawn = sample(policy, jnp.zeros((100_000, SPEC.obs_dim)), jax.random.key(2))
    expected = -SPEC.action_dim * (np.log(prior_std) + 0.5 * np.log(2.0 * np.pi) + 0.5)
    if prior_std == 2.5:
        assert expected / SPEC.action_dim == pytest.approx(-2.335, abs=1e-3)
    values = np.asarray(drawn.log_prior, np.float64)
    assert values.mean() == pytest.approx(expected, abs=5.0 / np.sqrt(len(values)))  # std is 1
    assert values.std() == pytest.approx(1.0, abs=0.03)  # sqrt(d / 2)


def test_log_prior_carries_no_gradient():
    policy = random_policy()

    @jax.jit
    def total(policy):
        return policy.sample(some_obs(16), jax.random.key(3)).log_prior.sum()

    for leaf in jax.tree.leaves(jax.grad(total)(policy)):
        np.testing.assert_array_equal(leaf, jnp.zeros_like(leaf))


def test_log_prob_carries_gradient_into_every_leaf():
    policy, obs = random_policy(), some_obs(16)

    @jax.jit
    def total(policy):
        return policy.sample(obs, jax.random.key(3)).log_prob.sum()

    gradient = jax.tree_util.tree_leaves_with_path(jax.grad(total)(policy))
    still = [jax.tree_util.keystr(path) for path, leaf in gradient if not jnp.any(leaf != 0.0)]
    assert still == []


def test_untrained_policy_is_nearly_bang_bang_and_the_same_everywhere():
    policy = DiffusionPolicy(CONFIG, SPEC, jax.random.key(4))
    drawn = sample(policy, some_obs(20_000), jax.random.key(5))
    latent_cut = np.arctanh(0.9)
    outside = 2.0 * 0.2779  # P(|N(0, 2.5^2)| > artanh 0.9) = P(|z| > 0.589)
    assert latent_cut / 2.5 == pytest.approx(0.589, abs=1e-3)
    assert (jnp.abs(drawn.action) > 0.9).mean() == pytest.approx(outside, abs=0.02)


def test_mean_path_is_the_chain_without_noise_from_zero():
    policy, obs = random_policy(), some_obs(6)
    steps, shape = CONFIG.num_denoising_steps, (6, SPEC.action_dim)
    noise = jnp.zeros((steps, *shape))
    chain = jax.jit(DiffusionPolicy.chain)(policy, obs, jnp.zeros(shape), noise)
    path = mean_path(policy, obs)
    np.testing.assert_allclose(path, jnp.tanh(chain.latents[-1]), rtol=1e-5, atol=1e-6)
    assert jnp.abs(path).min() > 1e-4  # the control moves it
    assert jnp.abs(path[0] - path[1]).max() > 1e-3  # and depends on the observation
    np.testing.assert_allclose(mean_path(policy, obs[2]), path[2], rtol=1e-4, atol=1e-5)


def test_samples_depend_on_the_key_alone():
    policy, obs = random_policy(), some_obs(6)
    first, again = (sample(policy, obs, jax.random.key(6)) for _ in range(2))
    np.testing.assert_array_equal(first.action, again.action)
    other = sample(policy, obs, jax.random.key(7))
    assert jnp.abs(first.action - other.action).min() > 0.0


def test_prior_draw_and_step_noise_are_independent():
    # Drawn from one key they would be equal, and the variance 0.56 instead of 0.29.
    config = DiffusionPolicyConfig(
        num_denoising_steps=1, prior_std=0.5, hidden_dim=4, num_hidden_layers=1
    )
    policy = DiffusionPolicy(config, SPEC, jax.random.key(0))
    drawn = sample(policy, jnp.zeros((50_000, SPEC.obs_dim)), jax.random.key(8))
    eta, variance = float(policy.step_sizes()[0, 0]), config.prior_std**2
    end = np.arctanh(np.asarray(drawn.action, np.float64))
    expected = (1.0 - eta / variance) ** 2 * variance + 2.0 * eta
    assert end.var() == pytest.approx(expected, rel=0.03)
    assert abs(np.corrcoef(end.T)[0, 1]) < 0.03  # dimensions are independent too


def test_step_sizes_and_their_scale_start_as_configured():
    policy = DiffusionPolicy(DiffusionPolicyConfig(), EnvSpec(3, 4), jax.random.key(0))
    step_sizes = policy.step_sizes()
    assert step_sizes.shape == (16, 4)
    np.testing.assert_allclose(step_sizes[0], jnp.full(4, 0.1), rtol=1e-3)
    np.testing.assert_allclose(step_sizes.sum(axis=0), jnp.full(4, 0.84), atol=0.01)
    np.testing.assert_allclose(policy.diffusion_scale(), jnp.full(4, 0.1), rtol=1e-5)
    assert policy.control.hidden[0].kernel.shape == (4 + 3 + 256, 256)
    assert len(policy.control.hidden) == 3


def test_optimizer_clips_each_entry_before_adam():
    optimizer = DiffusionPolicyConfig(learning_rate=0.1, adam_b1=0.0).make_optimizer()
    parameters = jnp.zeros(3)
    state = optimizer.init(parameters)
    # Adam's second moment tells what it was given.
    _, state = optimizer.update(jnp.array([100.0, 0.5, -7.0]), state, parameters)
    np.testing.assert_allclose(state[1][0].nu, 1e-3 * jnp.array([1.0, 0.25, 1.0]), rtol=1e-5)
