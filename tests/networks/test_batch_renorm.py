"""Batch renormalisation (Ioffe 2017): its two phases, its gradients, its running statistics."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.networks.batch_renorm import (
    EPSILON,
    MAX_SCALE_RATIO,
    MAX_SHIFT,
    WARMUP_CALLS,
    BatchRenorm,
    RunningStats,
)

FEATURES, ROWS = 3, 64
WARM = jnp.asarray(WARMUP_CALLS, jnp.int32)


def data(key=0):
    """Columns of different means and widths."""
    x = jax.random.normal(jax.random.key(key), (ROWS, FEATURES))
    return x * jnp.array([0.5, 2.0, 1.0]) + jnp.array([1.0, -2.0, 0.0])


def layer():
    norm = BatchRenorm(FEATURES)
    new = jnp.array([1.5, 0.5, -1.0]), jnp.array([0.1, 0.2, -0.3])
    return eqx.tree_at(lambda n: (n.scale, n.bias), norm, new)


def batch_norm(norm, x):
    mean, variance = x.mean(axis=0), x.var(axis=0)
    return (x - mean) / jnp.sqrt(variance + EPSILON) * norm.scale + norm.bias


def corrections(x, running):
    """r and d of the paper, as numbers."""
    running_std = np.sqrt(running.variance + EPSILON)
    ratio = np.sqrt(x.var(axis=0) + EPSILON) / running_std
    shift = (x.mean(axis=0) - running.mean) / running_std
    r = np.clip(ratio, 1.0 / MAX_SCALE_RATIO, MAX_SCALE_RATIO)
    return r, np.clip(shift, -MAX_SHIFT, MAX_SHIFT)


def renormalised(norm, x, r, d):
    """The released form: (x - (mean - d std / r)) / sqrt(var / r^2 + eps) * scale + bias."""
    mean, variance = x.mean(axis=0), x.var(axis=0)
    centre = mean - d * jnp.sqrt(variance) / r
    return (x - centre) / jnp.sqrt(variance / r**2 + EPSILON) * norm.scale + norm.bias


@pytest.mark.parametrize("num_calls", [0, WARMUP_CALLS - 1])
def test_is_batch_normalisation_during_warmup(num_calls):
    norm, x = layer(), data()
    running = RunningStats(jnp.full(3, 4.0), jnp.full(3, 9.0), jnp.asarray(num_calls, jnp.int32))
    y, _ = norm.train(x, running)
    np.testing.assert_allclose(y, batch_norm(norm, x), rtol=1e-4, atol=1e-5)


def test_renormalises_after_warmup():
    norm, x = layer(), data()
    # One column within the limits, one whose r is cut at 3, one whose d is cut at -5.
    running = RunningStats(jnp.array([0.8, -2.0, 9.0]), jnp.array([0.3, 0.1, 1.0]), WARM)
    r, d = corrections(x, running)
    assert 1.0 / MAX_SCALE_RATIO < r[0] < MAX_SCALE_RATIO
    assert (r[1], d[2]) == (MAX_SCALE_RATIO, -MAX_SHIFT)
    y, _ = norm.train(x, running)
    np.testing.assert_allclose(y, renormalised(norm, x, r, d), rtol=1e-4, atol=1e-4)
    assert jnp.abs(y - batch_norm(norm, x)).max() > 0.1


def test_after_warmup_with_the_batch_as_running_statistics_is_batch_normalisation():
    norm, x = layer(), data()
    running = RunningStats(x.mean(axis=0), x.var(axis=0), WARM)
    y, _ = norm.train(x, running)
    np.testing.assert_allclose(y, batch_norm(norm, x), rtol=1e-4, atol=1e-5)


def test_corrections_carry_no_gradient():
    norm, x = layer(), data()
    running = RunningStats(jnp.array([0.8, -1.0, 0.5]), jnp.array([0.3, 3.0, 1.5]), WARM)
    r, d = corrections(x, running)
    weights = jax.random.normal(jax.random.key(1), x.shape)

    def ours(x):
        return (norm.train(x, running)[0] * weights).sum()

    def fixed(x):
        return (renormalised(norm, x, r, d) * weights).sum()

    def moving(x):
        running_std = jnp.sqrt(running.variance + EPSILON)
        r = jnp.sqrt(x.var(axis=0) + EPSILON) / running_std
        d = (x.mean(axis=0) - running.mean) / running_std
        return (renormalised(norm, x, r, d) * weights).sum()

    gradient, expected, other = (jax.jit(jax.grad(f))(x) for f in (ours, fixed, moving))
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4)
    assert jnp.abs(expected - other).max() > 0.1
    # Gradients do flow through the batch's mean: with r, d fixed all rows still pull on each.
    assert jnp.abs(jax.grad(lambda x: norm.train(x, running)[0][0, 0])(x)[1:, 0]).min() > 0.0


def test_running_statistics_move_a_hundredth_towards_the_batch():
    norm, x = layer(), data()
    running = RunningStats(
        jnp.array([1.0, 2.0, 3.0]), jnp.array([0.5, 1.0, 2.0]), jnp.asarray(7, jnp.int32)
    )
    _, updated = norm.train(x, running)
    expected_mean = 0.99 * running.mean + 0.01 * x.mean(axis=0)
    expected_variance = 0.99 * running.variance + 0.01 * x.var(axis=0)
    np.testing.assert_allclose(updated.mean, expected_mean, rtol=1e-5)
    np.testing.assert_allclose(updated.variance, expected_variance, rtol=1e-5)
    assert updated.num_calls == 8

    def size(x):
        _, updated = norm.train(x, running)
        return updated.mean.sum() + updated.variance.sum()

    np.testing.assert_array_equal(jax.grad(size)(x), jnp.zeros_like(x))


def test_evaluation_mode_uses_the_running_statistics():
    norm, x = layer(), data()
    running = RunningStats(jnp.array([1.0, 2.0, 3.0]), jnp.array([0.5, 1.0, 2.0]), WARM)
    expected = (x - running.mean) / np.sqrt(running.variance + EPSILON) * norm.scale + norm.bias
    np.testing.assert_allclose(norm(x, running), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(norm(x[5], running), expected[5], rtol=1e-5, atol=1e-5)
    start = RunningStats.start(FEATURES)
    np.testing.assert_array_equal(start.mean, jnp.zeros(3))
    np.testing.assert_array_equal(start.variance, jnp.ones(3))
    assert start.num_calls == 0


@pytest.mark.parametrize("num_calls", [0, WARMUP_CALLS], ids=["warmup", "after"])
@pytest.mark.parametrize("constant", [0.0, 0.3, 1000.3])
def test_a_constant_column_has_finite_gradients(constant, num_calls):
    # 512 rows of it: E[x^2] - E[x]^2 is not 0 in float32; for 1000.3 it is -1.1.
    norm = layer()
    x = jax.random.normal(jax.random.key(2), (512, FEATURES)).at[:, 1].set(constant)
    running = RunningStats(jnp.full(3, 0.1), jnp.full(3, 2.0), jnp.asarray(num_calls, jnp.int32))

    def loss(norm, x):
        y, updated = norm.train(x, running)
        return (y**2).sum(), (y, updated)

    gradients, (y, updated) = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(norm, x)
    for leaf in jax.tree.leaves((gradients, y, updated)):
        assert jnp.isfinite(leaf).all()
    assert (updated.variance > 0.0).all()


def test_a_joint_pass_differs_from_two_separate_ones():
    norm, first, second = layer(), data(0), data(1) + 3.0
    running = RunningStats.start(FEATURES)
    together, _ = norm.train(jnp.concatenate([first, second]), running)
    apart = jnp.concatenate([norm.train(x, running)[0] for x in (first, second)])
    assert jnp.abs(together - apart).max() > 0.5
