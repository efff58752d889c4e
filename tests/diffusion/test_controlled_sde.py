"""Chains and log-ratios against plain loops over the kernels' full densities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from dime.diffusion.controlled_sde import (
    Chain,
    gaussian_log_prob,
    kernel_mean,
    learnt_step_sizes,
    sample_chain,
)

STEPS, DIM, PRIOR_STD = 6, 2, 1.7
STEP_SIZES = learnt_step_sizes(jnp.asarray(-1.0), jnp.array([0.5, -0.2]), STEPS)


def control(latent, step):
    """Nonlinear, and different at each step and dimension."""
    return jnp.sin(2.0 * latent + step) * jnp.array([1.0, -3.0])


def draws(shape, key=0):
    prior_key, noise_key = jax.random.split(jax.random.key(key))
    prior_draw = PRIOR_STD * jax.random.normal(prior_key, (*shape, DIM))
    return prior_draw, jax.random.normal(noise_key, (STEPS, *shape, DIM))


def loop(prior_draw, noise):
    """Eqs. 11, 12 and 15 step by step in float64, densities with their normalisers."""
    latents, log_ratio = [np.asarray(prior_draw, np.float64)], 0.0
    for n in range(STEPS):
        eta, u = np.asarray(STEP_SIZES[n], np.float64), latents[-1]
        drift = np.sin(2.0 * u + n) * np.array([1.0, -3.0])
        mean = u + eta * (-u / PRIOR_STD**2 + drift)
        std = np.sqrt(2.0 * eta)
        following = mean + std * noise[n]
        undone = following - eta * following / PRIOR_STD**2
        log_ratio += norm.logpdf(u, undone, std).sum() - norm.logpdf(following, mean, std).sum()
        latents.append(following)
    return np.stack(latents), log_ratio


def test_chain_is_the_loop_over_the_kernels():
    prior_draw, noise = draws(())
    chain = sample_chain(control, STEP_SIZES, PRIOR_STD, prior_draw, noise)
    latents, log_ratio = loop(prior_draw, noise)
    assert chain.latents.shape == (STEPS + 1, DIM)
    np.testing.assert_allclose(chain.latents, latents, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(chain.log_ratio, log_ratio, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(5,), (2, 3)], ids=str)
def test_batched_and_vmapped_chains_equal_a_loop(shape):
    prior_draw, noise = draws(shape)

    def chain(prior_draw, noise):
        return sample_chain(control, STEP_SIZES, PRIOR_STD, prior_draw, noise)

    together = jax.jit(chain)(prior_draw, noise)
    mapped = chain
    for _ in shape:
        mapped = jax.vmap(mapped, in_axes=(0, 1), out_axes=Chain(1, 0))
    mapped = jax.jit(mapped)(prior_draw, noise)
    alone = jax.jit(chain)
    for index in np.ndindex(shape):
        single = alone(prior_draw[index], noise[(slice(None), *index)])
        for chains in (together, mapped):
            latents = chains.latents[(slice(None), *index)]
            np.testing.assert_allclose(latents, single.latents, rtol=1e-5, atol=1e-5)
            log_ratio = chains.log_ratio[index]
            np.testing.assert_allclose(log_ratio, single.log_ratio, rtol=1e-4, atol=1e-4)


def test_without_control_the_prior_stays():
    # Discretised: v' = (1 - eta / sigma^2)^2 v + 2 eta = v + eta^2 / sigma^2 at v = sigma^2.
    num_chains, steps, prior_std = 200_000, 16, 2.5
    step_sizes = learnt_step_sizes(jnp.log(jnp.expm1(0.1)), jnp.full(1, 0.5413), steps)

    @jax.jit
    def last(key):
        prior_key, noise_key = jax.random.split(key)
        prior_draw = prior_std * jax.random.normal(prior_key, (num_chains, 1))
        noise = jax.random.normal(noise_key, (steps, num_chains, 1))
        nothing = lambda latent, step: jnp.zeros_like(latent)  # noqa: E731
        return sample_chain(nothing, step_sizes, prior_std, prior_draw, noise).latents[-1, :, 0]

    end = np.asarray(last(jax.random.key(0)), np.float64)
    variance = prior_std**2
    for eta in np.asarray(step_sizes[:, 0], np.float64):
        variance = (1.0 - eta / prior_std**2) ** 2 * variance + 2.0 * eta
    standard_error = variance * np.sqrt(2.0 / num_chains)
    assert abs(end.var() - variance) < 5.0 * standard_error
    assert end.var() == pytest.approx(prior_std**2, rel=0.02)
    assert abs(end.mean()) < 5.0 * prior_std / np.sqrt(num_chains)


def test_kernels_undo_each_other_to_first_order():
    latent, eta = jnp.array([0.7, -1.1]), jnp.full(2, 1e-3)
    there = kernel_mean(latent, jnp.zeros(2), eta, PRIOR_STD)
    np.testing.assert_allclose(there, latent * (1.0 - 1e-3 / PRIOR_STD**2), rtol=1e-6)
    # Both pull towards 0: the process without control is reversible (the prior is its law).
    np.testing.assert_allclose(kernel_mean(latent, jnp.zeros(()), eta, PRIOR_STD), there, rtol=1e-6)
    steered = kernel_mean(latent, jnp.array([2.0, -4.0]), eta, PRIOR_STD)
    np.testing.assert_allclose(steered - there, [2e-3, -4e-3], rtol=1e-3)


def test_gaussian_log_prob():
    x, mean, variance = jnp.array([[0.3, -2.0]]), jnp.array([[1.0, 0.5]]), jnp.array([0.5, 4.0])
    expected = multivariate_normal.logpdf(x[0], mean[0], np.diag(variance))
    np.testing.assert_allclose(gaussian_log_prob(x, mean, variance)[0], expected, rtol=1e-5)
    expected = norm.logpdf(np.asarray(x[0]), 0.0, 1.5).sum()
    np.testing.assert_allclose(gaussian_log_prob(x, 0.0, 1.5**2)[0], expected, rtol=1e-5)


def test_gradient_reaches_control_and_step_sizes():
    prior_draw, noise = draws((8,))

    def value(scale, step_sizes):
        chain = sample_chain(
            lambda u, n: scale * control(u, n), step_sizes, PRIOR_STD, prior_draw, noise
        )
        return (chain.log_ratio + chain.latents[-1].sum(axis=-1)).mean()

    with jax.enable_x64(True):
        prior_draw, noise = (jnp.asarray(np.asarray(x), jnp.float64) for x in (prior_draw, noise))
        scale, sizes = (
            jnp.asarray(0.8, jnp.float64),
            jnp.asarray(np.asarray(STEP_SIZES, np.float64)),
        )
        value = jax.jit(value)
        gradients = jax.jit(jax.grad(value, argnums=(0, 1)))(scale, sizes)
        step, direction = 1e-6, np.linspace(-0.1, 0.1, sizes.size).reshape(sizes.shape)
        by_scale = (value(scale + step, sizes) - value(scale - step, sizes)) / (2 * step)
        up, down = value(scale, sizes + step * direction), value(scale, sizes - step * direction)
        by_sizes = (up - down) / (2 * step)
        np.testing.assert_allclose(gradients[0], by_scale, rtol=1e-5)
        np.testing.assert_allclose((gradients[1] * direction).sum(), by_sizes, rtol=1e-5)
