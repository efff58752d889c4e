"""Step sizes: the cosine profile, the learnt scales, their inverse; variances of DDPM's steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.diffusion.controlled_sde import cosine_profile, inverse_softplus, learnt_step_sizes
from dime.diffusion.ddpm import cosine_betas, variance_preserving_betas


@pytest.mark.parametrize("num_steps", [1, 2, 16, 64])
def test_profile_is_the_cosine_counted_from_the_noise_end(num_steps):
    # DIME appendix D: the k-th of N noising steps has t = k / N; step n here undoes k = N - n.
    time = np.arange(num_steps, 0, -1) / num_steps
    expected = 0.999 * np.cos(0.5 * np.pi * (1.008 - time) / 1.008) ** 2 + 0.001
    np.testing.assert_allclose(cosine_profile(num_steps), expected, rtol=1e-4, atol=1e-6)


def test_profile_falls_from_one_to_almost_nothing():
    profile = cosine_profile(16)
    assert (jnp.diff(profile) < 0.0).all()
    np.testing.assert_allclose(0.1 * profile[jnp.array([0, 1, 14, 15])],
                               [0.1000, 0.0992, 0.0042, 0.0012], atol=2e-3)  # fmt: skip
    assert 0.001 < profile[-1] < 0.02


def test_step_sizes_factor_into_scale_profile_and_divisor():
    raw_scale, raw_divisor = jnp.asarray(-1.0), jnp.array([0.3, 2.0, -0.5])
    expected = (
        np.log1p(np.exp(-1.0))
        * np.asarray(cosine_profile(8))[:, None]
        / np.log1p(np.exp(np.asarray(raw_divisor)))
    )
    step_sizes = learnt_step_sizes(raw_scale, raw_divisor, 8)
    np.testing.assert_allclose(step_sizes, expected, rtol=1e-5)


@pytest.mark.parametrize("value", [1e-3, 0.1, 1.0, 10.0])
def test_inverse_softplus(value):
    raw = inverse_softplus(value)
    assert raw.dtype == jnp.float32
    np.testing.assert_allclose(jax.nn.softplus(raw), value, rtol=1e-4)


def remaining_after(betas):
    """The share of the signal's variance that is left after all steps."""
    return np.prod(1.0 - np.asarray(betas, np.float64))


@pytest.mark.parametrize("num_steps", [1, 5, 20, 100])
def test_variance_preserving_steps_leave_the_same_signal_whatever_their_number(num_steps):
    betas = variance_preserving_betas(num_steps)
    assert remaining_after(betas) == pytest.approx(np.exp(-5.05), rel=1e-4)
    step = np.arange(1, num_steps + 1)
    rate = 0.1 / num_steps + 0.5 * 9.9 * (2 * step - 1) / num_steps**2
    np.testing.assert_allclose(betas, 1.0 - np.exp(-rate), rtol=1e-12)


@pytest.mark.parametrize("num_steps, ends", [
    (5, (0.196, 0.835)), (15, (0.028, 0.475)), (20, (0.017, 0.386)),
])  # fmt: skip
def test_variance_preserving_steps_grow_between_known_ends(num_steps, ends):
    betas = np.asarray(variance_preserving_betas(num_steps))
    np.testing.assert_allclose(betas[[0, -1]], ends, atol=6e-4)
    assert (np.diff(betas) > 0.0).all()


@pytest.mark.parametrize("num_steps", [1, 4, 20, 100])
def test_cosine_betas_are_those_of_nichol_and_dhariwal(num_steps):
    time = np.arange(num_steps + 1) / num_steps
    remaining = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
    remaining /= remaining[0]
    expected = np.minimum(1.0 - remaining[1:] / remaining[:-1], 0.999)
    betas = cosine_betas(num_steps)
    np.testing.assert_allclose(betas, expected, rtol=1e-11)  # in float32 off by 2e-5
    assert float(betas[-1]) == pytest.approx(0.999)  # only there does the bound bite
    np.testing.assert_allclose(np.cumprod(1.0 - betas)[:-1], remaining[1:-1], rtol=1e-11)


@pytest.mark.parametrize("num_steps, left", [(20, 6e-6), (100, 2e-7)])
def test_cosine_betas_leave_next_to_nothing(num_steps, left):
    assert remaining_after(cosine_betas(num_steps)) == pytest.approx(left, rel=0.25)
