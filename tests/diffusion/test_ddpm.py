"""Denoising steps against the Gaussian posterior, and where chains of them end."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.diffusion.ddpm import (
    Noise,
    ancestral_step,
    cosine_betas,
    denoise,
    noised,
    posterior_step,
    variance_preserving_betas,
)
from tests.drawn import normal, uniform

SCHEDULES = {"variance preserving": variance_preserving_betas, "cosine": cosine_betas}
every_schedule = pytest.mark.parametrize("name", SCHEDULES)


def at(betas, index):
    """beta, alpha_bar and the previous alpha_bar of a step, in double precision."""
    betas = np.asarray(betas, np.float64)
    remaining = np.concatenate([[1.0], np.cumprod(1.0 - betas)])
    return betas[index], remaining[index + 1], remaining[index]


def test_what_is_left_of_the_signal_is_the_product_over_the_steps_so_far():
    betas = cosine_betas(6)
    noise = Noise.of(betas)
    for index in range(6):
        ours = [per_step[index] for per_step in noise]
        np.testing.assert_allclose(ours, at(betas, index), rtol=1e-12)


@every_schedule
@pytest.mark.parametrize("num_steps", [1, 2, 5, 20, 100])
def test_the_exact_noise_of_a_point_mass_leads_to_it(name, num_steps):
    betas = SCHEDULES[name](num_steps)
    point = jnp.array([0.7, -0.3, 1.0])
    remaining = jnp.asarray(Noise.of(betas).alpha_bars)

    @jax.jit
    def end(start, key):
        def exact(noisy, index):
            return (noisy - jnp.sqrt(remaining[index]) * point) / jnp.sqrt(1 - remaining[index])

        return denoise(exact, posterior_step, betas, start, key)

    action = end(normal(0, 6, 3), jax.random.key(1))
    np.testing.assert_allclose(action, np.tile(point, (6, 1)), atol=1e-4)


@every_schedule
def test_a_step_is_the_exact_posterior_of_its_clean_action(name):
    """Of x_{t-1}, whose prior is N(sqrt(a') clean, 1 - a'), seen through the step to x_t."""
    betas, clean, noisy = SCHEDULES[name](5), uniform(0, 4, 2), normal(1, 4, 2)
    for index in range(1, 5):
        beta, remaining, previous = at(betas, index)
        precision = 1.0 / (1.0 - previous) + (1.0 - beta) / beta
        weighed = np.sqrt(previous) / (1.0 - previous) * np.asarray(clean)
        weighed += np.sqrt(1.0 - beta) / beta * np.asarray(noisy)
        predicted = (noisy - np.sqrt(remaining) * clean) / np.sqrt(1.0 - remaining)
        for draw in (0.0, 1.0, -2.0):
            expected = weighed / precision + draw / np.sqrt(precision)
            draws = jnp.full((4, 2), draw)
            step = posterior_step(noisy, predicted, Noise.of(betas), jnp.int32(index), draws)
            np.testing.assert_allclose(step, expected, rtol=1e-5, atol=2e-6)


@every_schedule
@pytest.mark.parametrize("num_steps", [5, 100])
def test_the_last_step_leaves_the_clipped_estimate(name, num_steps):
    betas, noisy, predicted = SCHEDULES[name](num_steps), normal(0, 50, 2), normal(1, 50, 2)
    _, remaining, _ = at(betas, 0)
    estimate = (noisy - np.sqrt(1.0 - remaining) * predicted) / np.sqrt(remaining)
    assert 5 < (np.abs(estimate) > 1.0).sum() < 95
    step = posterior_step(noisy, predicted, Noise.of(betas), jnp.int32(0), jnp.full((50, 2), 1e3))
    np.testing.assert_allclose(step, np.clip(estimate, -1.0, 1.0), atol=1e-6)


def test_noised_actions_have_the_mean_and_variance_of_their_step():
    clean, remaining = jnp.array([0.5, -1.0]), np.array([0.9, 0.5, 0.1])
    noisy = noised(
        jnp.broadcast_to(clean, (20_000, 3, 2)),
        normal(0, 20_000, 3, 2),
        Noise.of(1.0 - remaining / np.array([1.0, 0.9, 0.5])),
        jnp.broadcast_to(jnp.arange(3), (20_000, 3)),
    )
    mean = np.sqrt(remaining)[:, None] * np.asarray(clean)
    np.testing.assert_allclose(np.mean(noisy, axis=0), mean, atol=0.02)
    variance = np.broadcast_to(1.0 - remaining[:, None], (3, 2))
    np.testing.assert_allclose(np.var(noisy, axis=0), variance, rtol=0.04)


def test_ancestral_step_is_its_formula():
    betas = variance_preserving_betas(5)
    noisy, predicted, draw = 0.1 * normal(0, 6, 2), 0.1 * normal(1, 6, 2), 0.3 * normal(2, 6, 2)
    for index in range(5):
        beta, remaining, _ = at(betas, index)
        mean = (noisy - beta / np.sqrt(1.0 - remaining) * predicted) / np.sqrt(1.0 - beta)
        expected = mean + (np.sqrt(beta) * draw if index > 0 else 0.0)
        assert np.abs(expected).max() < 1.0
        step = ancestral_step(noisy, predicted, Noise.of(betas), jnp.int32(index), draw)
        np.testing.assert_allclose(step, expected, rtol=1e-4, atol=1e-5)


def test_ancestral_step_clips_the_noisy_action_itself():
    noise = Noise.of(variance_preserving_betas(5))
    far = jnp.array([[3.0, -3.0]])
    step = ancestral_step(far, jnp.zeros((1, 2)), noise, jnp.int32(2), jnp.zeros((1, 2)))
    np.testing.assert_array_equal(step, [[1.0, -1.0]])
    # An estimate clipped to the box would pull this one back to it; here the prediction moves it.
    pulled = ancestral_step(jnp.zeros((1, 2)), -far, noise, jnp.int32(2), jnp.zeros((1, 2)))
    np.testing.assert_array_equal(pulled, [[1.0, -1.0]])


@pytest.mark.parametrize("strength, contracts", [
    (0.1, [False] * 5), (1.0, [True] * 5), (2.0, [True] * 3 + [False] * 2),
])  # fmt: skip
def test_the_field_of_a_quadratic_value_contracts_only_for_some_strengths(strength, contracts):
    """QSM's field is strength * (action - mode), and its chain does not end at the mode."""
    betas, mode = variance_preserving_betas(5), 0.02
    noisy = jnp.array([[0.0], [0.01]])
    for index in range(5):
        beta, remaining, _ = at(betas, index)
        field = strength * (noisy - mode)
        step = ancestral_step(noisy, field, Noise.of(betas), jnp.int32(index), jnp.zeros((2, 1)))
        low, high = np.asarray(step, np.float64)[:, 0]
        slope = (high - low) / 0.01
        k = beta * strength / np.sqrt(1.0 - remaining)
        assert slope == pytest.approx((1.0 - k) / np.sqrt(1.0 - beta), abs=1e-4)
        assert (abs(slope) < 1.0) == contracts[index]
        kept = np.sqrt(1.0 - beta)
        assert (1.0 - kept < k < 1.0 + kept) == contracts[index]
        if contracts[index]:
            assert low / (1.0 - slope) == pytest.approx(k * mode / (k - 1.0 + kept), rel=1e-3)


def test_chains_run_from_the_last_step_to_the_first():
    def note(noisy, predicted, noise, index, draw):
        return 0.1 * noisy + predicted

    betas = variance_preserving_betas(4)
    end = denoise(lambda noisy, index: 0.1 * index, note, betas, jnp.zeros(1), None)
    assert float(end[0]) == pytest.approx(0.0123)  # 3, 2, 1, 0, the latest foremost


@pytest.mark.parametrize("key, std", [(7, 0.02), (None, 0.0)])
def test_every_step_has_noise_of_its_own_or_none_has(key, std):
    def add(noisy, predicted, noise, index, draw):
        return noisy + 0.01 * draw

    run = jax.jit(partial(denoise, lambda noisy, index: noisy, add, variance_preserving_betas(4)))
    end = run(jnp.zeros((1_000, 2)), None if key is None else jax.random.key(key))
    assert float(jnp.std(end)) == pytest.approx(std, rel=0.05)  # 0.04 if all four were the same


def test_what_a_chain_ends_at_is_clipped():
    end = denoise(
        lambda noisy, index: noisy,
        lambda noisy, predicted, noise, index, draw: 2.0 * noisy,
        variance_preserving_betas(2),
        jnp.array([0.2, -0.3]),
        None,
    )
    np.testing.assert_allclose(end, [0.8, -1.0], rtol=1e-6)
