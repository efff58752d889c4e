"""A chain's log-ratio makes unbiased importance weights, whatever the control (DIME eq. 15).

For a normalised density rho over the end of the chain,
`E[exp(log rho(u_N) + log_ratio - log prior(u_0))] = 1`: the weights turn the denoising chain into
the noising chain started at rho. It fails when the ratio's terms, the prior's density or the
Jacobian are not those of the sampled chain. (Where the kernels put their means does not matter to
it; the closed forms of the entropy bound's tests fix those.)
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.diffusion.controlled_sde import gaussian_log_prob
from dime.policies.diffusion import DiffusionPolicy, DiffusionPolicyConfig
from dime.types import EnvSpec

SPEC = EnvSpec(obs_dim=3, action_dim=2)
NUM_CHAINS = 2**18


def random_policy(prior_std):
    """A policy whose control is a nonlinear function of everything it is told, not nearly 0."""
    policy_key, output_key, divisor_key = jax.random.split(jax.random.key(0), 3)
    config = DiffusionPolicyConfig(
        num_denoising_steps=8, prior_std=prior_std, hidden_dim=16, num_hidden_layers=2
    )
    policy = DiffusionPolicy(config, SPEC, policy_key)
    kernel = jax.random.normal(output_key, (16, SPEC.action_dim))
    divisor = policy.raw_dim_divisor + 0.5 * jax.random.normal(divisor_key, (SPEC.action_dim,))
    where = lambda p: (p.control.output.kernel, p.raw_dim_divisor)  # noqa: E731
    return eqx.tree_at(where, policy, (kernel, divisor))


def assert_mean(weights, expected):
    """The sample mean is within 5 standard errors, and they are small enough to tell."""
    weights = np.asarray(weights, np.float64)
    standard_error = weights.std() / np.sqrt(len(weights))
    assert standard_error < 0.01 * expected
    assert abs(weights.mean() - expected) < 5.0 * standard_error


@pytest.mark.parametrize("prior_std", [1.0, 2.5])
def test_weights_towards_the_prior_have_mean_one(prior_std):
    policy = random_policy(prior_std)

    @jax.jit
    def log_weights(key):
        obs_key, prior_key, noise_key = jax.random.split(key, 3)
        obs = jax.random.normal(obs_key, (NUM_CHAINS, SPEC.obs_dim))
        draw = prior_std * jax.random.normal(prior_key, (NUM_CHAINS, SPEC.action_dim))
        noise = jax.random.normal(noise_key, (8, *draw.shape))
        chain = policy.chain(obs, draw, noise)
        log_rho = gaussian_log_prob(chain.latents[-1], 0.0, prior_std**2)
        return log_rho + chain.log_ratio - gaussian_log_prob(draw, 0.0, prior_std**2)

    weights = np.exp(np.asarray(log_weights(jax.random.key(1)), np.float64))
    assert weights.std() > 0.3  # the control is at work: without one they would all be near 1
    assert_mean(weights, 1.0)


@pytest.mark.parametrize("prior_std", [1.0, 2.5])
def test_exponentiated_entropy_bound_has_the_volume_of_the_action_box_as_its_mean(prior_std):
    # rho uniform over the actions: E[exp(-log_prob)] is the volume of (-1, 1)^d. This one needs
    # all of log_prob: the log-ratio, the prior's share and tanh's Jacobian (eq. 59).
    policy = random_policy(prior_std)

    @jax.jit
    def log_prob(key):
        obs_key, sample_key = jax.random.split(key)
        obs = jax.random.normal(obs_key, (NUM_CHAINS, SPEC.obs_dim))
        return policy.sample(obs, sample_key).log_prob

    bound = -np.asarray(log_prob(jax.random.key(2)), np.float64)
    assert_mean(np.exp(bound), 2.0**SPEC.action_dim)
    # Jensen: the entropy bound itself stays below the log volume, the largest entropy there is.
    assert bound.mean() < SPEC.action_dim * jnp.log(2.0)
