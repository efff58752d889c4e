"""The consistency policy: its sampler by hand, and when its behaviour loss is what."""

from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.networks.chain_networks import Denoiser, SinusoidalFeatures
from dime.policies.consistency import ConsistencyPolicy, training_time
from dime.types import EnvSpec
from tests.drawn import drawn, normal, uniform

SMALLEST = 0.002


def make_denoiser(key, kind=Denoiser):
    def features(key):
        return SinusoidalFeatures((1.0, 0.1), (6, 4), key)

    return kind(EnvSpec(obs_dim=2, action_dim=2), (8,), features, key)


def policy(num_levels=40, kind=Denoiser, std=0.5):
    return ConsistencyPolicy(drawn(lambda key: make_denoiser(key, kind), std=std), 5, num_levels)


def constant(value, num_levels):
    """A network that says `value` everywhere."""
    silent = jax.tree.map(jnp.zeros_like, policy(num_levels))
    bias = lambda p: p.denoiser.mlp.layers[-1].bias  # noqa: E731
    return eqx.tree_at(bias, silent, jnp.full(2, value))


class Exact(Denoiser):
    """The consistency function of data that are the observation itself.

    Its paths are `data + time * direction`; it leads to where they are at the smallest time.
    """

    def __call__(self, noisy, obs, time):
        time = time[..., None]
        clean = obs + SMALLEST / time * (noisy - obs)
        past = time - SMALLEST
        skip = 0.25 / (past**2 + 0.25)
        scale = jnp.maximum(0.5 * past / jnp.sqrt(time**2 + 0.25), 1e-12)
        return (clean - skip * noisy) / scale


LOSS = jax.jit(ConsistencyPolicy.behaviour_loss)


def by_hand(made, obs):
    """From a start at 0, nothing noised again; the raw time is told to the network."""
    noisy = jnp.zeros((obs.shape[0], 2))
    for time in (80.0, 60.5, 41.0, 21.5, 2.0):
        times = jnp.full(obs.shape[0], time)
        skip, past = 0.25 / ((time - 0.002) ** 2 + 0.25), time - 0.002
        output = made.denoiser(noisy, obs, times)
        noisy = skip * noisy + 0.5 * past / np.sqrt(time**2 + 0.25) * output
    return jnp.clip(noisy, -1.0, 1.0)


def test_the_sampler_is_that_of_the_denoiser_and_carries_gradients():
    obs, made = normal(0, 6, 2), policy(std=0.4)
    forms = [lambda made: made.deterministic(obs), lambda made: by_hand(made, obs)]
    sampled, expected = (
        jax.jit(jax.value_and_grad(lambda made, form=form: (form(made) ** 2).sum()))(made)
        for form in forms
    )
    for first, second in zip(*map(jax.tree.leaves, (sampled, expected)), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-5)
    assert all(np.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(sampled[1]))


@pytest.mark.parametrize("lead", [(), (5,), (2, 3)], ids=str)
def test_one_action_or_several_for_each_observation(lead):
    made, key, obs = policy(), jax.random.key(0), jnp.zeros((*lead, 2))
    assert jax.eval_shape(made.sample, obs, key).shape == (*lead, 2)
    assert jax.eval_shape(made.deterministic, obs).shape == (*lead, 2)
    several = jax.eval_shape(lambda obs, key: made.sample(obs, key, num=7), obs, key)
    assert several.shape == (7, *lead, 2)


def test_a_constant_network_leaves_the_noise_of_the_last_time():
    """The noise at time 2, times what is kept of it there; what came before is gone but for 6 %."""
    obs = jnp.zeros((1, 2))
    sample = jax.jit(lambda made, key: made.sample(obs, key, num=20_000))
    action = np.asarray(sample(constant(0.8, 40), jax.random.key(0)))
    skip, out = 0.25 / (1.998**2 + 0.25), 0.5 * 1.998 / np.sqrt(4.25)
    earlier = 0.5 * 21.498 / np.sqrt(21.5**2 + 0.25) * 0.8  # the mean at time 21.5
    assert action.mean() == pytest.approx(out * 0.8 + skip * earlier, abs=3e-3)
    kept = 0.25 / (21.498**2 + 0.25) * 21.5
    assert action.std() == pytest.approx(skip * np.sqrt(4.0 + kept**2), rel=0.02)


def test_the_behaviour_loss_of_an_exact_model_is_zero():
    exact, action = policy(kind=Exact), uniform(1, 512, 2)
    rounding = LOSS(exact, exact, action, action, jax.random.key(0))
    assert float(rounding) < 1e-4
    # A model of other data is far from it, and so is one that only the slow copy has learnt.
    assert float(LOSS(exact, exact, -action, action, jax.random.key(0))) > 10.0 * float(rounding)
    assert float(LOSS(constant(0.0, 40), exact, action, action, jax.random.key(0))) > 1e-2


def test_between_two_levels_only_the_boundary_condition_is_asked():
    """The slow copy at the smallest time is the identity: an own map at 80 that says the data."""
    data, value, rows = 0.6, 0.9, 20_000
    action, obs = jnp.full((rows, 2), data), jnp.zeros((rows, 2))
    loss = LOSS(constant(value, 2), constant(-50.0, 2), obs, action, jax.random.key(0))
    skip = 0.25 / (79.998**2 + 0.25)
    out = 0.5 * 79.998 / np.sqrt(80.0**2 + 0.25)
    error = (skip * data + out * value - data) ** 2 + (80.0 * skip - SMALLEST) ** 2
    assert float(loss) == pytest.approx(100.0 / 79.998 * error, rel=0.01)


def test_each_copy_is_asked_at_its_own_time_and_only_one_learns():
    """Six levels, data at 0: the mean over the five pairs of the weighted squared errors."""
    fast, slow, rows = 3.0, -2.0, 20_000
    zeros = jnp.zeros((rows, 2))
    levels = np.asarray(training_time(jnp.arange(6), 6), np.float64)
    skip = 0.25 / ((levels - SMALLEST) ** 2 + 0.25)
    out = 0.5 * (levels - SMALLEST) / np.sqrt(levels**2 + 0.25)
    spread = skip * levels  # of what the noise leaves in each map
    terms = [
        100.0 / (levels[high] - levels[low])
        * ((spread[high] - spread[low]) ** 2 + (out[high] * fast - out[low] * slow) ** 2)
        for low, high in pairwise(range(6))
    ]  # fmt: skip
    made, copy = constant(fast, 6), constant(slow, 6)
    loss, gradients = jax.jit(jax.value_and_grad(ConsistencyPolicy.behaviour_loss, (0, 1)))(
        made, copy, zeros, zeros, jax.random.key(1)
    )
    assert float(loss) == pytest.approx(np.mean(terms), rel=0.03)
    assert np.abs(gradients[0].denoiser.mlp.layers[-1].bias).min() > 1.0
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradients[1]))
