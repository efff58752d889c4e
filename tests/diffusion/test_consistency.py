"""Consistency models: the boundary condition, the times, the sampler followed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.policies.consistency import (
    consistency_map,
    sample_consistency,
    sampling_times,
    training_time,
)
from tests.drawn import normal

SMALLEST = 0.002


def weights(time):
    """Of the noisy action and of the network's output at a time."""
    one, zero = jnp.ones(1), jnp.zeros(1)
    time = jnp.float32(time)
    return float(consistency_map(zero, one, time)[0]), float(consistency_map(one, zero, time)[0])


def test_it_is_the_identity_at_the_smallest_time_whatever_the_network_says():
    noisy, output = normal(0, 5, 2), 100.0 * normal(1, 5, 2)
    times = jnp.full(5, SMALLEST)
    np.testing.assert_array_equal(consistency_map(output, noisy, times), noisy)


@pytest.mark.parametrize("time", [SMALLEST, 0.1, 0.5, 2.0, 21.5, 80.0])
def test_its_weights_are_those_of_the_formula(time):
    skip = 0.25 / ((time - 0.002) ** 2 + 0.25)
    out = 0.5 * (time - 0.002) / np.sqrt(time**2 + 0.25)
    assert weights(time) == pytest.approx((skip, out), rel=1e-4, abs=1e-9)


def test_its_weights_at_the_samplers_last_time_are_known():
    assert weights(2.0) == pytest.approx((0.059, 0.485), abs=5e-4)


def test_each_row_has_its_own_time():
    noisy, output = normal(2, 3, 2), normal(3, 3, 2)
    times = jnp.array([0.002, 2.0, 80.0])
    together = consistency_map(output, noisy, times)
    for row in range(3):
        alone = consistency_map(output[row], noisy[row], times[row])
        np.testing.assert_allclose(together[row], alone, rtol=1e-6)


def test_sampling_times_fall_evenly_from_80_to_2():
    np.testing.assert_allclose(sampling_times(5), [80.0, 60.5, 41.0, 21.5, 2.0])
    np.testing.assert_allclose(sampling_times(1), [80.0])


def test_training_times_are_those_of_karras():
    times = np.asarray(training_time(jnp.arange(18), 18), np.float64)
    np.testing.assert_allclose(times[[0, -1]], [0.002, 80.0], rtol=1e-4)
    np.testing.assert_allclose(np.diff(times ** (1 / 7), n=2), np.zeros(16), atol=1e-5)
    np.testing.assert_allclose(training_time(jnp.arange(2), 2), [0.002, 80.0], rtol=1e-4)


def test_the_sampler_goes_through_the_times_in_their_order():
    def note(noisy, index):
        return 0.1 * noisy + 0.1 * index

    end = sample_consistency(note, sampling_times(4), jnp.ones(1), None)
    assert float(end[0]) == pytest.approx(0.3211)  # index 3 foremost, then 2, 1, 0 and the start


@pytest.mark.parametrize("times", [(3.0, 0.004, 0.003), (3.0, 0.2, 0.1)], ids=str)
def test_it_noises_up_to_each_time_again(times):
    """With the identity for a map, each time adds its variance less that of the smallest."""
    start = jnp.zeros((20_000, 2))
    sample = jax.jit(lambda key: sample_consistency(lambda x, i: x, jnp.array(times), start, key))
    expected = sum(time**2 - SMALLEST**2 for time in times[1:])
    assert np.var(sample(jax.random.key(0))) == pytest.approx(expected, rel=0.03)


def test_only_the_last_action_is_clipped():
    def grow_and_shrink(noisy, index):
        return noisy * jnp.array([10.0, 0.1])[index]

    start = jnp.array([0.5, -0.7])
    end = sample_consistency(grow_and_shrink, jnp.array([80.0, 2.0]), start, None)
    np.testing.assert_allclose(end, start, rtol=1e-6)
    grown = sample_consistency(lambda x, i: 2.0 * x, jnp.array([80.0]), start, None)
    np.testing.assert_array_equal(grown, [1.0, -1.0])
