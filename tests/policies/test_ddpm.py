"""Policies that denoise: the chain followed by hand, its draws, and what its network learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.diffusion.ddpm import cosine_betas, variance_preserving_betas
from dime.networks.chain_networks import Denoiser, SinusoidalFeatures
from dime.policies.ddpm import DdpmPolicy, DdpmPolicyConfig
from dime.types import EnvSpec
from tests.drawn import drawn, normal, uniform

STEPS = 4
BETAS = np.asarray(cosine_betas(STEPS))
LEFT = np.concatenate([[1.0], np.cumprod(1.0 - BETAS)])  # alpha_bar after 0, 1, ... steps


def policy(num_steps=STEPS, obs_dim=3, std=0.5):
    def make(key):
        spec = EnvSpec(obs_dim, action_dim=2)
        return Denoiser(spec, (8,), lambda key: SinusoidalFeatures((1.0, 0.1), (6, 4), key), key)

    return DdpmPolicy(drawn(make, std=std), num_steps, cosine_betas)


SAMPLE = jax.jit(DdpmPolicy.sample, static_argnames="num")
QUIET, FROM_ZERO = jax.jit(DdpmPolicy.noise_free), jax.jit(DdpmPolicy.deterministic)
SEEDED = jax.jit(DdpmPolicy.observation_seeded)


def by_hand(made, obs, noisy):
    """The chain without noise (Ho et al. 2020, eqs. 6 and 7), the step's index told from 0."""
    for index in reversed(range(STEPS)):
        beta, now, before = BETAS[index], LEFT[index + 1], LEFT[index]
        predicted = made.denoiser(noisy, obs, jnp.full(obs.shape[0], index))
        clean = jnp.clip((noisy - np.sqrt(1.0 - now) * predicted) / np.sqrt(now), -1.0, 1.0)
        of_noisy = np.sqrt(1.0 - beta) * (1.0 - before) / (1.0 - now)
        noisy = np.sqrt(before) * beta / (1.0 - now) * clean + of_noisy * noisy
    return noisy


def test_the_chain_is_that_of_the_denoiser_and_carries_gradients():
    obs = normal(1, 6, 3)

    def total(act):
        return lambda made: (act(made) ** 2).sum()

    forms = [
        lambda made: made.deterministic(obs),
        lambda made: by_hand(made, obs, jnp.zeros((6, 2))),
    ]
    made = policy(std=0.3)
    chain, expected = (jax.jit(jax.value_and_grad(total(form)))(made) for form in forms)
    for first, second in zip(*map(jax.tree.leaves, (chain, expected)), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-4)
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(chain[1]))


def test_without_noise_the_key_decides_the_start_alone():
    made, obs = policy(), normal(2, 6, 3)
    start = jax.random.normal(jax.random.key(4), (6, 2))
    expected = jax.jit(by_hand)(made, obs, start)
    np.testing.assert_allclose(QUIET(made, obs, jax.random.key(4)), expected, rtol=1e-3, atol=1e-4)
    other = QUIET(made, obs, jax.random.key(5))
    assert np.abs(other - expected).max() > 0.01
    # From the same starts the noisy chain ends elsewhere, with a step that adds noise.
    noisy = SAMPLE(made, obs, jax.random.key(4))
    assert np.abs(noisy - expected).max() > 0.01


@pytest.mark.parametrize("lead", [(), (5,), (2, 3)], ids=str)
def test_one_action_or_several_for_each_observation(lead):
    made, key, obs = policy(), jax.random.key(0), jnp.zeros((*lead, 3))
    assert jax.eval_shape(made.sample, obs, key).shape == (*lead, 2)
    assert jax.eval_shape(made.noise_free, obs, key).shape == (*lead, 2)
    assert jax.eval_shape(made.deterministic, obs).shape == (*lead, 2)
    assert jax.eval_shape(made.observation_seeded, obs).shape == (*lead, 2)
    several = jax.eval_shape(lambda obs, key: made.sample(obs, key, num=7), obs, key)
    assert several.shape == (7, *lead, 2)


def test_draws_have_the_law_of_their_own_observation():
    made, obs = policy(std=0.3), jnp.array([[-2.0, 0.0, 2.0], [2.0, 1.0, -2.0]])
    many = SAMPLE(made, obs, jax.random.key(0), num=4_000)
    assert np.abs(many).max() <= 1.0
    alone = [SAMPLE(made, jnp.tile(row, (4_000, 1)), jax.random.key(1)) for row in obs]
    assert np.abs(alone[0].mean(axis=0) - alone[1].mean(axis=0)).max() > 0.2
    for row in range(2):
        np.testing.assert_allclose(many[:, row].mean(axis=0), alone[row].mean(axis=0), atol=0.06)
        np.testing.assert_allclose(many[:, row].std(axis=0), alone[row].std(axis=0), atol=0.06)
    assert abs(np.corrcoef(many[:-1, 0, 0], many[1:, 0, 0])[0, 1]) < 0.06


@pytest.mark.parametrize("obs_dim", [3, 67])
def test_an_observation_decides_its_action_whatever_is_beside_it(obs_dim):
    made, obs = policy(obs_dim=obs_dim), normal(3, 64, obs_dim)
    together = np.asarray(SEEDED(made, obs))
    alone = np.stack([SEEDED(made, row) for row in obs])
    np.testing.assert_allclose(alone, together, rtol=1e-3, atol=1e-3)


def test_observations_have_random_numbers_of_their_own():
    made, obs = policy(), jnp.array([[0.3, -0.5, 0.9]]) + 1e-3 * normal(5, 64, 3)
    seeded, quiet = SEEDED(made, obs), FROM_ZERO(made, obs)
    assert np.std(seeded, axis=0).min() > 0.3
    assert np.std(quiet, axis=0).max() < 0.01  # nearly the same observation for the network


def test_actions_are_noised_at_a_random_step_of_each_row():
    made, action = policy(), jnp.full((8_000, 2), 0.5)
    noisy, noise, index = jax.jit(DdpmPolicy.noise)(made, action, jax.random.key(0))
    np.testing.assert_allclose(np.bincount(index, minlength=STEPS) / 8_000, 0.25, atol=0.02)
    remaining = LEFT[1 + np.asarray(index)][:, None]
    expected = np.sqrt(remaining) * 0.5 + np.sqrt(1.0 - remaining) * np.asarray(noise)
    np.testing.assert_allclose(noisy, expected, rtol=1e-4, atol=1e-5)
    assert (float(noise.mean()), float(noise.std())) == pytest.approx((0.0, 1.0), abs=0.03)
    assert abs(np.corrcoef(index, noise[:, 0])[0, 1]) < 0.05


def test_errors_are_those_of_the_noise_at_that_step():
    made, obs, action = policy(), normal(6, 20, 3), uniform(7, 20, 2)
    noisy, noise, index = jax.jit(DdpmPolicy.noise)(made, action, jax.random.key(3))
    expected = np.square(jax.jit(Denoiser.__call__)(made.denoiser, noisy, obs, index) - noise)
    errors = jax.jit(DdpmPolicy.noise_errors)(made, obs, action, jax.random.key(3))
    np.testing.assert_allclose(errors, expected, rtol=1e-3, atol=1e-5)
    loss = jax.jit(DdpmPolicy.behaviour_loss)(made, made, obs, action, jax.random.key(3))
    assert float(loss) == pytest.approx(float(expected.mean()), rel=1e-4)


def test_settings_give_the_widths_and_the_schedule_has_a_default():
    config = DdpmPolicyConfig(num_denoising_steps=5, hidden_dim=7, num_hidden_layers=3)
    assert config.hidden == (7, 7, 7)
    made = DdpmPolicy(policy().denoiser, 5)
    assert made.betas_of is variance_preserving_betas
