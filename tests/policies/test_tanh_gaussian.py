"""The tanh-Gaussian: its density against SciPy's, and where its numbers could break."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from dime.policies.tanh_gaussian import GaussianPolicyConfig, TanhGaussian
from dime.types import EnvSpec


def key(number=3):
    return jax.random.key(number)


def law(mean, log_std):
    return TanhGaussian(jnp.asarray(mean, jnp.float32), jnp.asarray(log_std, jnp.float32))


def density(action, mean, std):
    """Of a tanh-Gaussian in one dimension."""
    return stats.norm.pdf(np.arctanh(action), mean, std) / (1.0 - action**2)


def test_log_prob_is_the_log_of_the_density():
    mean, std = np.array([0.3, -0.8]), np.array([0.5, 0.2])
    rows = (1000, 1)
    sample = law(np.tile(mean, rows), np.tile(np.log(std), rows)).sample(key())
    action = np.asarray(sample.action, np.float64)
    expected = np.log(density(action, mean, std)).sum(axis=-1)
    np.testing.assert_allclose(sample.log_prob, expected, rtol=1e-3, atol=1e-3)
    assert not sample.log_prior.any()


def test_the_density_integrates_to_one():
    total, _ = integrate.quad(lambda a: density(a, 0.3, 0.5), -1.0, 1.0)
    assert total == pytest.approx(1.0, abs=1e-6)  # what the test above compares with


def test_entropy_is_the_mean_of_the_log_prob():
    sample = law(np.full((200_000, 1), 0.4), np.full((200_000, 1), -0.5)).sample(key())
    std = np.exp(-0.5)

    def integrand(action):
        p = density(action, 0.4, std)
        return -p * np.log(p) if p > 0.0 else 0.0

    entropy, _ = integrate.quad(integrand, -1.0, 1.0, limit=200)
    assert -float(sample.log_prob.mean()) == pytest.approx(entropy, abs=0.01)


@pytest.mark.parametrize("mean, log_std", [(30.0, 0.0), (-5.0, -20.0), (1.0, -20.0), (0.0, 2.0)])
def test_far_out_and_narrow_laws_stay_finite(mean, log_std):
    shape = (64, 3)

    def loss(mean, log_std):
        return TanhGaussian(mean, log_std).sample(key()).log_prob.sum()

    arguments = jnp.full(shape, mean), jnp.full(shape, log_std)
    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(*arguments)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in gradients)


def test_a_narrow_law_has_the_density_of_its_width():
    sample = law(np.ones((1000, 1)), np.full((1000, 1), -15.0)).sample(key())
    entropy = 0.5 * np.log(2.0 * np.pi * np.e) - 15.0 + np.log(1.0 - np.tanh(1.0) ** 2)
    assert -float(sample.log_prob.mean()) == pytest.approx(entropy, abs=0.1)


def test_outputs_are_means_and_clipped_log_stds():
    made = TanhGaussian.from_output(jnp.array([1.0, -2.0, -100.0, 100.0]))
    np.testing.assert_array_equal(made.mean, [1.0, -2.0])
    np.testing.assert_array_equal(made.log_std, [-20.0, 2.0])
    np.testing.assert_allclose(made.mode(), np.tanh([1.0, -2.0]), rtol=1e-6)


def test_the_policy_has_a_law_for_each_observation():
    policy = GaussianPolicyConfig(hidden_dim=8, num_hidden_layers=2).make(EnvSpec(3, 2), key())
    obs = jax.random.normal(key(), (5, 4, 3))
    assert policy.sample(obs, key()).action.shape == (5, 4, 2)
    alone = policy.deterministic(obs[2, 1])
    np.testing.assert_allclose(policy.deterministic(obs)[2, 1], alone, rtol=1e-5)
    assert [layer.kernel.shape for layer in policy.network.layers] == [(3, 8), (8, 8), (8, 4)]
