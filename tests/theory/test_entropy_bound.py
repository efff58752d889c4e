"""The entropy bound against chains whose marginal entropy is known (DIME eq. 15, appendix A).

Under a linear control every latent is Gaussian. Its mean and covariance follow from the recursion
below (NumPy, float64, written from eqs. 11 and 12 alone). The log-ratio is then a quadratic
polynomial of independent standard normals, so a cubature rule that is exact for quadratics gives
the expectation of what the package computes without sampling error.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.diffusion.controlled_sde import cosine_profile, gaussian_log_prob, sample_chain
from dime.policies.diffusion import DiffusionPolicy, DiffusionPolicyConfig
from dime.types import EnvSpec

NUM_CONTROLS, DIM, STEPS = 3000, 2, 5


def gaussian_entropy(covariance):
    """In nats, of the last two axes."""
    dim = covariance.shape[-1]
    log_det = np.linalg.slogdet(covariance)[1]
    return 0.5 * (dim * np.log(2.0 * np.pi * np.e) + log_det)


def linear_chain(matrices, offsets, step_sizes, prior_std):
    """Mean and covariance of the last latent, and E[log-ratio], for `f_n(u) = A_n u + b_n`."""
    steps, dim = offsets.shape
    identity = np.eye(dim)
    mean, covariance, log_ratio = np.zeros(dim), prior_std**2 * identity, 0.0
    for n in range(steps):
        eta = np.diag(step_sizes[n])
        forward = identity + eta @ (matrices[n] - identity / prior_std**2)
        shift = eta @ offsets[n]
        backward = identity - eta / prior_std**2
        # What the noising kernel leaves of u_n: u_n - backward (forward u_n + shift + noise).
        rest = identity - backward @ forward
        rest_mean = rest @ mean - backward @ shift
        rest_covariance = rest @ covariance @ rest.T + backward @ (2.0 * eta) @ backward.T
        second_moment = np.diag(rest_covariance) + rest_mean**2
        log_ratio += 0.5 * (dim - np.sum(second_moment / (2.0 * step_sizes[n])))
        mean = forward @ mean + shift
        covariance = forward @ covariance @ forward.T + 2.0 * eta
    return mean, covariance, log_ratio


def exact_moments(matrices, offsets, step_sizes, prior_std):
    """What the package's chain has as E[u_N], Cov[u_N], E[log-ratio] and E[entropy bound].

    The points +-sqrt(D) e_i with equal weights integrate polynomials of degree 3 exactly against
    a standard normal in D dimensions (spherical-radial cubature).
    """
    steps, dim = offsets.shape
    size = (steps + 1) * dim
    points = np.sqrt(size) * jnp.concatenate([jnp.eye(size), -jnp.eye(size)])
    draws = points.reshape(-1, steps + 1, dim)

    def control(latent, step):
        return latent @ matrices[step].T + offsets[step]

    chain = sample_chain(
        control, step_sizes, prior_std, prior_std * draws[:, 0], jnp.moveaxis(draws[:, 1:], 1, 0)
    )
    last = chain.latents[-1]
    deviation = last - last.mean(axis=0)
    log_prior = gaussian_log_prob(chain.latents[0], 0.0, prior_std**2)
    bound = (chain.log_ratio - log_prior).mean()
    return last.mean(axis=0), deviation.T @ deviation / len(last), chain.log_ratio.mean(), bound


@functools.cache
def random_linear_chains(prior_std):
    """Closed form and the package's numbers for many random linear controls and step sizes."""
    rng = np.random.default_rng(0)
    # From hardly any control to one that far outweighs the pull of the prior.
    scale = np.exp(rng.uniform(np.log(1e-4), np.log(5.0), (NUM_CONTROLS, 1, 1)))
    matrices = scale[..., None] * rng.normal(size=(NUM_CONTROLS, STEPS, DIM, DIM))
    offsets = scale * rng.normal(size=(NUM_CONTROLS, STEPS, DIM))
    low, high = np.log(1e-3), np.log(0.3)
    step_sizes = np.exp(rng.uniform(low, high, (NUM_CONTROLS, STEPS, DIM)))
    arguments = matrices, offsets, step_sizes
    rows = [linear_chain(*row, prior_std) for row in zip(*arguments, strict=True)]
    closed = [np.stack(column) for column in zip(*rows, strict=True)]
    with jax.enable_x64(True):
        moments = jax.jit(jax.vmap(lambda a, b, eta: exact_moments(a, b, eta, prior_std)))
        ours = [np.asarray(x) for x in moments(*map(jnp.asarray, arguments))]
    return closed, ours


@pytest.mark.parametrize("prior_std", [0.7, 2.5])
def test_chain_and_log_ratio_have_the_closed_form_of_a_linear_control(prior_std):
    closed, ours = random_linear_chains(prior_std)
    for expected, actual, what in zip(closed, ours[:3], ["mean", "cov", "log-ratio"], strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-7, atol=1e-9, err_msg=what)


@pytest.mark.parametrize("prior_std", [0.7, 2.5])
def test_bound_never_exceeds_the_marginal_entropy(prior_std):
    (_, covariance, _), (_, _, _, bound) = random_linear_chains(prior_std)
    gap = gaussian_entropy(covariance) - bound
    assert gap.min() > -1e-9
    # The rule is not vacuous: some of these chains all but reach it, some are far below.
    assert gap.min() < 1e-2
    assert gap.max() > 1.0


def reversing_chain(num_steps, target_variance, prior_std, total_step_size):
    """Step sizes, and the linear control that reverses the noising of N(0, target_variance).

    `f_n(u) = 2 (score of the noising marginal at step n + u / prior_std^2)`.
    """
    profile = np.asarray(cosine_profile(num_steps), np.float64)
    step_sizes = total_step_size * profile / profile.sum()
    variance, slopes = target_variance, np.zeros(num_steps)
    for n in reversed(range(num_steps)):
        eta = step_sizes[n]
        variance = (1.0 - eta / prior_std**2) ** 2 * variance + 2.0 * eta
        slopes[n] = 2.0 * (-1.0 / variance + 1.0 / prior_std**2)
    return slopes[:, None, None], np.zeros((num_steps, 1)), step_sizes[:, None]


def test_gap_closes_like_one_over_the_number_of_steps():
    # Total diffusion 20 at prior_std 2.5: the noising forgets its start (exp(-6.4)), so what is
    # left of the gap is the discretisation. At the default step sizes it is not: there the total
    # grows with the number of steps.
    prior_std, steps = 2.5, [16, 32, 64, 256, 1024]
    gaps = []
    for num_steps in steps:
        with jax.enable_x64(True):
            arguments = map(jnp.asarray, reversing_chain(num_steps, 0.25, prior_std, 20.0))
            moments = jax.jit(lambda a, b, eta: exact_moments(a, b, eta, prior_std))
            _, covariance, _, bound = moments(*arguments)
        gaps.append(gaussian_entropy(np.asarray(covariance)) - float(bound))
    np.testing.assert_allclose(gaps, [0.472, 0.192, 0.087, 0.020, 0.005], rtol=0.02)
    assert gaps[3] / gaps[4] == pytest.approx(4.0, rel=0.05)


def log_one_minus_tanh_squared(u):
    """Without cancellation for large |u|."""
    return np.log(4.0) - 2.0 * np.abs(u) - 2.0 * np.log1p(np.exp(-2.0 * np.abs(u)))


@pytest.mark.parametrize("slope", [0.0, -2.0])
def test_bound_of_the_squashed_action(slope):
    # The action's entropy is the latent's plus E[log(1 - tanh^2)] (eq. 59): -2.9 nats per
    # dimension for the untrained chain (slope 0), so a wrong sign is off by 11 here.
    num_chains, dim, steps = 2**17, 2, 8
    config = DiffusionPolicyConfig(num_denoising_steps=steps, hidden_dim=8, num_hidden_layers=1)
    policy = DiffusionPolicy(config, EnvSpec(1, dim), jax.random.key(0))

    @jax.jit
    def sample(key):
        prior_key, noise_key = jax.random.split(key)
        prior_draw = policy.prior_std * jax.random.normal(prior_key, (num_chains, dim))
        noise = jax.random.normal(noise_key, (steps, num_chains, dim))
        return policy.weigh(
            sample_chain(
                lambda latent, step: slope * latent,
                policy.step_sizes(),
                policy.prior_std,
                prior_draw,
                noise,
            )
        )

    drawn = sample(jax.random.key(1))
    bounds = -np.asarray(drawn.log_prob, np.float64)
    step_sizes = np.asarray(policy.step_sizes(), np.float64)
    matrices = np.broadcast_to(slope * np.eye(dim), (steps, dim, dim))
    offsets = np.zeros((steps, dim))
    _, covariance, log_ratio = linear_chain(matrices, offsets, step_sizes, policy.prior_std)
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    values = log_one_minus_tanh_squared(np.sqrt(covariance[0, 0]) * nodes)
    squash = dim * np.sum(weights * values) / weights.sum()
    prior_entropy = gaussian_entropy(policy.prior_std**2 * np.eye(dim))
    standard_error = bounds.std() / np.sqrt(num_chains)
    assert standard_error < 0.02
    assert abs(bounds.mean() - (log_ratio + prior_entropy + squash)) < 5.0 * standard_error
    assert bounds.mean() < gaussian_entropy(covariance) + squash + 5.0 * standard_error
