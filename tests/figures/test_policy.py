import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.figures.policy import (
    NUM_BINS,
    StateView,
    bin_centres,
    boltzmann,
    draw_chains,
    levels_enclosing,
    masses,
    prior_masses,
)
from dime.policies.diffusion import BridgePolicyConfig, DiffusionPolicyConfig
from dime.types import EnvSpec

SIZES = {"num_denoising_steps": 5, "hidden_dim": 8, "num_hidden_layers": 1}
OBS = np.linspace(-1.0, 1.0, 6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("config", [DiffusionPolicyConfig(**SIZES), BridgePolicyConfig(**SIZES)])
def test_chains_end_in_the_actions_that_the_policy_samples(config):
    policy = config.make(EnvSpec(3, 2), jax.random.key(0))
    repeated = jnp.broadcast_to(OBS, (4, *OBS.shape))
    sample = policy.sample(repeated, jax.random.key(7))
    latents = policy.draw(repeated, jax.random.key(7)).latents
    assert latents.shape == (6, 4, 2, 2)
    np.testing.assert_array_equal(jnp.tanh(latents[-1]), sample.action, strict=True)

    actions, log_prob = draw_chains(policy, OBS, 4, jax.random.key(7))
    assert actions.shape == (6, 4, 2, 2) and log_prob.shape == (4, 2)
    np.testing.assert_allclose(actions, np.tanh(latents), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(log_prob, sample.log_prob, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dims", [1, 2])
def test_the_shares_of_each_step_sum_to_one(dims):
    actions = np.tanh(np.random.default_rng(0).normal(size=(7, 300, dims)))
    actions[0, 0] = 1.0  # squashed as far as float32 goes: in the last bin
    mass = masses(actions)
    assert mass.shape == (7, *[NUM_BINS[dims]] * dims)
    np.testing.assert_allclose(mass.reshape(7, -1).sum(axis=1), 1.0)


def test_the_axes_of_a_plane_are_in_the_order_of_its_dimensions():
    mass = masses(np.array([[[0.99, -0.99]]]))[0]
    assert mass[-1, 0] == 1.0


def test_the_prior_has_the_probabilities_that_its_samples_have():
    draws = np.tanh(2.5 * np.random.default_rng(0).normal(size=(1, 400_000, 1)))
    np.testing.assert_allclose(prior_masses(2.5), masses(draws)[0], atol=1e-3)


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_exp_of_a_quadratic_is_a_gaussian(temperature):
    variance = 0.02
    values = 7.0 - 0.5 * (bin_centres(1) - 0.3) ** 2 / variance
    density = boltzmann(values, temperature)
    std = np.sqrt(temperature * variance)
    expected = np.exp(-0.5 * ((bin_centres(1) - 0.3) / std) ** 2)
    np.testing.assert_allclose(density / density.max(), expected / expected.max(), rtol=1e-10)
    assert density.sum() * 2.0 / NUM_BINS[1] == pytest.approx(1.0)


def test_exp_of_a_plane_integrates_to_one():
    values = np.add.outer(bin_centres(2), 2.0 * bin_centres(2))
    density = boltzmann(values, 0.1)
    assert density.sum() * (2.0 / NUM_BINS[2]) ** 2 == pytest.approx(1.0)
    assert np.unravel_index(density.argmax(), density.shape) == (NUM_BINS[2] - 1,) * 2


def test_a_tiny_temperature_leaves_the_best_bin():
    values = np.zeros(100)
    values[30] = 1.0
    density = boltzmann(values, 1e-12)
    assert density[30] == pytest.approx(50.0) and density.sum() == density[30]
    assert levels_enclosing(density, (0.5, 0.9)) == []


def test_levels_enclose_their_shares():
    x, y = np.meshgrid(bin_centres(2), bin_centres(2))
    density = boltzmann(-0.5 * ((x - 0.013) ** 2 + (y + 0.006) ** 2) / 0.2**2, 1.0)
    levels = levels_enclosing(density, (0.5, 0.9))
    for level, share in zip(levels, (0.9, 0.5), strict=True):
        assert density[density >= level].sum() / density.sum() == pytest.approx(share, abs=0.02)
        # A Gaussian's share within radius r is 1 - exp(-r^2 / 2 std^2).
        assert level / density.max() == pytest.approx(1.0 - share, rel=0.1)
    assert levels_enclosing(np.ones((3, 3)), (0.5, 0.9)) == []


def test_total_variation_is_0_for_the_same_and_1_for_what_shares_no_bin():
    density = np.array([1.0, 3.0, 0.0])
    for mass, distance in (((0.25, 0.75, 0.0), 0.0), ((0.0, 0.0, 1.0), 1.0)):
        assert StateView(0, np.array([mass]), np.zeros((1, 0, 1)), density).distance == distance
