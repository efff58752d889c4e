"""The quantile head: its loss by hand, and where descending it leads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.critics.heads import Head, QuantileHead, SoftBackup
from tests.drawn import normal


@jax.jit
def loss_of(output, target):
    return QuantileHead(output.shape[-1]).loss(output, target)[0]


def descended(output, target, rate, num_steps):
    """The output after gradient descent on its loss, where all rows share one."""

    @jax.jit
    def run(start):
        def step(output, _):
            rows = jnp.broadcast_to(output, (1, *target.shape))
            return output - rate * jax.grad(loss_of)(rows, target).sum(axis=(0, 1)), None

        return jax.lax.scan(step, start, None, num_steps)[0]

    return run(output)


def test_it_is_a_head_with_a_number_for_each_quantile():
    head = QuantileHead(5)
    assert isinstance(head, Head)
    assert head.output_dim == 5
    output = normal(0, 2, 3, 5)
    np.testing.assert_allclose(head.value(output), np.mean(output, axis=-1), rtol=1e-5)
    np.testing.assert_allclose(head.combined_value(output), np.mean(output, (0, 2)), rtol=1e-5)


def test_the_target_moves_the_critics_mean_quantile_by_quantile():
    output = jnp.array([[[0.0, 10.0]], [[2.0, 4.0]]])
    backup = SoftBackup(jnp.array([1.0]), jnp.array([0.5]), jnp.array([0.25]))
    target = QuantileHead(2).target(output, backup)
    np.testing.assert_allclose(target, [[1.0 + 0.5 * (1.0 - 0.25), 1.0 + 0.5 * (7.0 - 0.25)]])
    ended = SoftBackup(jnp.array([1.0]), jnp.array([0.0]), jnp.array([0.25]))
    np.testing.assert_allclose(QuantileHead(2).target(output, ended), [[1.0, 1.0]])


def test_loss_by_hand():
    """Quantiles 0 and 3 at shares 1/4 and 3/4; targets 1/2 and -2."""
    first = (0.25 * 0.125 + 0.75 * 1.5) / 2.0  # errors 1/2, of which half the square, and -2
    second = (0.25 * 2.0 + 0.25 * 4.5) / 2.0  # errors -5/2 and -5
    target = jnp.array([[0.5, -2.0]])
    loss, metrics = QuantileHead(2).loss(jnp.array([[[0.0, 3.0]]]), target)
    assert float(loss) == pytest.approx(first + second)
    assert metrics == {}
    # Two critics: the sum. Two rows, one of them on its target: the mean.
    both = jnp.array([[[0.0, 3.0]], [[0.0, 3.0]]])
    assert float(loss_of(both, target)) == pytest.approx(2.0 * (first + second))
    rows = jnp.array([[[0.0, 3.0], [7.0, 7.0]]])
    two = jnp.concatenate([target, jnp.array([[7.0, 7.0]])])
    assert float(loss_of(rows, two)) == pytest.approx(0.5 * (first + second))


def test_loss_is_the_number_of_quantiles_times_the_mean_of_means():
    output, target, num = normal(1, 2, 6, 9), 2.0 * normal(2, 6, 9), 9
    shares = (np.arange(num) + 0.5) / num
    error = np.asarray(target)[None, :, None, :] - np.asarray(output)[..., None]
    huber = np.where(np.abs(error) <= 1.0, 0.5 * error**2, np.abs(error) - 0.5)
    weight = np.where(error < 0.0, 1.0 - shares[:, None], shares[:, None])
    assert float(loss_of(output, target)) == pytest.approx(
        num * 2.0 * (weight * huber).mean(), rel=1e-5
    )


def test_all_quantiles_go_to_a_constant_target():
    target = jnp.full((1, 5), 3.7)
    end = descended(jnp.array([-4.0, 0.0, 3.7, 5.0, 20.0]), target, rate=1.0, num_steps=400)
    np.testing.assert_allclose(end, 3.7, atol=1e-4)


@pytest.mark.parametrize("spread", [0.1, 100.0])
def test_the_ends_are_quantiles_of_a_wide_and_expectiles_of_a_narrow_target(spread):
    """The target is uniform on (0, spread); the loss turns from squares to distances at 1."""
    num = 9
    shares = (np.arange(num) + 0.5) / num
    odds = np.sqrt(shares) / (np.sqrt(shares) + np.sqrt(1.0 - shares))  # expectiles on (0, 1)
    assert odds[0] == pytest.approx(0.19, abs=0.01)
    # Within 1 of an end's own place the loss is a square, which moves it by up to 1/2.
    expected = {0.1: 0.1 * odds, 100.0: 0.5 + 99.0 * shares}[spread]
    grid = (jnp.arange(100 * num).reshape(100, num) + 0.5) / (100 * num)
    start = jnp.full(num, 0.5 * spread)
    end = descended(start, spread * grid, rate=max(1.0, 0.5 * spread), num_steps=600)
    np.testing.assert_allclose(end, expected, atol=2e-4 * spread)
