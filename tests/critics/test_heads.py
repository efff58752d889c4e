"""Heads: value, soft Bellman target and loss in closed form (DIME eqs. 21 and 24, appendix D)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.critics.heads import CategoricalHead, Head, ScalarHead, SoftBackup

HEAD = CategoricalHead(num_atoms=11, v_min=-10.0, v_max=10.0, entropy_weight=0.005)
SCALAR = ScalarHead()
SUPPORT = np.linspace(-10.0, 10.0, 11)
project_target = jax.jit(HEAD.target)
categorical_loss = jax.jit(HEAD.loss)


def logits(*shape, key=0):
    return 2.0 * jax.random.normal(jax.random.key(key), (*shape, HEAD.num_atoms))


def centred_logits(*shape):
    """Nearly all mass between -4 and 4, so that moving by a few units clips nothing."""
    return jnp.broadcast_to(-0.5 * jnp.asarray(SUPPORT, jnp.float32) ** 2, (*shape, 11))


def softmax(x):
    e = np.exp(np.asarray(x, np.float64))
    return e / e.sum(axis=-1, keepdims=True)


def backup(reward, discount, entropy_cost):
    return SoftBackup(*(jnp.asarray(x, jnp.float32) for x in (reward, discount, entropy_cost)))


def test_both_are_heads():
    assert isinstance(HEAD, Head)
    assert isinstance(SCALAR, Head)
    assert (HEAD.output_dim, SCALAR.output_dim) == (11, 1)


def test_atoms_are_evenly_spaced_from_end_to_end():
    np.testing.assert_allclose(HEAD.atoms, SUPPORT, atol=1e-6)
    paper = CategoricalHead(num_atoms=101, v_min=-200.0, v_max=200.0, entropy_weight=0.005)
    np.testing.assert_allclose(jnp.diff(paper.atoms), jnp.full(100, 4.0), rtol=1e-4)


@pytest.mark.parametrize("shape", [(), (3,), (2, 4)], ids=str)
def test_value_is_the_mean_of_the_distribution(shape):
    output = logits(*shape)
    assert HEAD.value(output).shape == shape
    np.testing.assert_allclose(HEAD.value(output), softmax(output) @ SUPPORT, rtol=1e-4, atol=1e-5)


def test_termination_leaves_the_reward_alone():
    # 3.0 lies between the atoms 2 and 4, and so takes half of each.
    target = project_target(logits(2, 2), backup([3.0, -8.0], [0.0, 0.0], [5.0, -5.0]))
    expected = np.zeros((2, 11))
    expected[0, [6, 7]], expected[1, 1] = 0.5, 1.0
    np.testing.assert_allclose(target, expected, atol=1e-6)
    scalar = SCALAR.target(jnp.ones((2, 2, 1)), backup([3.0, -8.0], [0.0, 0.0], [5.0, -5.0]))
    np.testing.assert_allclose(scalar, [3.0, -8.0])


def test_entropy_cost_moves_the_mean_by_minus_discount_times_cost():
    cost = np.array([0.0, 1.5, -2.0, 3.0])
    discount = np.array([0.9, 0.9, 0.9, 0.5])
    target = project_target(centred_logits(2, 4), backup(np.zeros(4), discount, cost))
    np.testing.assert_allclose(target @ SUPPORT, -discount * cost, atol=1e-4)
    np.testing.assert_allclose(target.sum(axis=-1), 1.0, atol=1e-5)


def test_reward_and_discount_move_the_mean():
    output = centred_logits(2, 1) + 0.3 * jnp.asarray(SUPPORT, jnp.float32)  # mean is not 0
    mean = float(HEAD.value(output[0])[0])
    assert mean > 0.2
    target = project_target(output, backup([1.25], [0.8], [0.5]))
    assert float(target[0] @ SUPPORT) == pytest.approx(1.25 + 0.8 * (mean - 0.5), abs=1e-4)


def test_what_leaves_the_support_lands_on_its_end():
    target = project_target(centred_logits(2, 2), backup([100.0, -100.0], [0.99, 0.99], [0.0, 0.0]))
    np.testing.assert_allclose(target[0], np.eye(11)[10], atol=1e-6)
    np.testing.assert_allclose(target[1], np.eye(11)[0], atol=1e-6)


def test_categorical_target_is_the_mean_over_the_critics():
    output = logits(2, 5)
    moved = backup(np.linspace(-1, 1, 5), np.full(5, 0.9), np.linspace(-2, 2, 5))
    alone = [project_target(output[i : i + 1], moved) for i in range(2)]
    assert jnp.abs(alone[0] - alone[1]).max() > 0.05
    np.testing.assert_allclose(project_target(output, moved), (alone[0] + alone[1]) / 2, atol=1e-6)


def test_what_falls_outside_of_the_support_is_measured():
    output = jnp.zeros((2, 2, 11))  # all atoms alike, the mean 0
    moved = backup([4.0, -20.0], [1.0, 0.5], [0.0, 2.0])
    metrics = HEAD.target_metrics(output, moved)
    # Moved by 4: the atoms 8 and 10 fall outside. -21 + z / 2: those below 22, all of them.
    assert float(metrics["target_clipped_mass"]) == pytest.approx((2 / 11 + 1) / 2, rel=1e-5)
    assert float(metrics["target_low"]) == pytest.approx(-21.0, rel=1e-5)
    assert float(metrics["target_high"]) == pytest.approx(4.0, rel=1e-5)
    inside = HEAD.target_metrics(output[:, :1], backup([0.0], [0.99], [0.0]))
    assert float(inside["target_clipped_mass"]) == 0.0
    assert float(metrics["target_clipped_mass_of_returns"]) == pytest.approx(
        (2 / 11 + 1) / 2, rel=1e-5
    )
    # Moved by -15 by the entropy alone: all but the atoms 6, 8 and 10.
    entropy = HEAD.target_metrics(output[:, :1], backup([0.0], [1.0], [15.0]))
    assert float(entropy["target_clipped_mass"]) == pytest.approx(8 / 11, rel=1e-5)
    assert float(entropy["target_clipped_mass_of_returns"]) == 0.0
    assert SCALAR.target_metrics(jnp.ones((2, 2, 1)), moved) == {}


def test_projection_of_the_atoms_themselves_changes_nothing():
    probs = jax.nn.softmax(logits(3))
    positions = jnp.broadcast_to(HEAD.atoms, probs.shape)
    np.testing.assert_allclose(HEAD.project(probs, positions), probs, atol=1e-6)


def test_projection_splits_between_the_neighbours():
    probs = jnp.zeros((1, 11)).at[0, 4].set(1.0)
    positions = jnp.zeros((1, 11)).at[0, 4].set(-5.5)  # a quarter from -6 (atom 2) to -4 (atom 3)
    expected = 0.75 * np.eye(11)[2] + 0.25 * np.eye(11)[3]
    np.testing.assert_allclose(HEAD.project(probs, positions)[0], expected, atol=1e-5)


def test_categorical_loss_is_cross_entropy_minus_weighted_entropy():
    output, target = logits(2, 4), jax.nn.softmax(logits(4, key=1))
    loss, metrics = categorical_loss(output, target)
    probs = softmax(output)
    cross_entropy = -(np.asarray(target) * np.log(probs)).sum(axis=-1).mean(axis=-1)
    entropy = -(probs * np.log(probs)).sum(axis=-1).mean(axis=-1)
    assert float(loss) == pytest.approx((cross_entropy - 0.005 * entropy).sum(), rel=1e-5)
    assert float(metrics["critic_entropy"]) == pytest.approx(entropy.mean(), rel=1e-5)
    end_mass = np.asarray(target)[:, [0, -1]].sum(axis=-1).mean()
    assert float(metrics["target_end_mass"]) == pytest.approx(end_mass, rel=1e-5)


def test_categorical_loss_is_lowest_at_its_target():
    target = jax.nn.softmax(logits(4, key=1))
    head = CategoricalHead(11, -10.0, 10.0, entropy_weight=0.0)
    output = jnp.broadcast_to(jnp.log(target), (2, 4, 11))
    gradient = jax.jit(jax.grad(lambda output: head.loss(output, target)[0]))
    np.testing.assert_allclose(gradient(output), jnp.zeros_like(output), atol=1e-6)
    # The bonus asks for more entropy than the target has: it flattens.
    gradient = jax.jit(jax.grad(lambda output: HEAD.loss(output, target)[0]))(output)
    step = jax.nn.softmax(output - 1e2 * gradient)
    entropy = lambda p: -(p * jnp.log(p)).sum(axis=-1).mean()  # noqa: E731
    assert entropy(step) > entropy(target)


def test_categorical_loss_survives_certainty():
    output = jnp.zeros((2, 1, 11)).at[..., 0].set(1e4)
    target = jnp.eye(11)[10:]
    certain = jax.jit(jax.value_and_grad(lambda output: HEAD.loss(output, target)[0]))
    loss, gradient = certain(output)
    assert float(loss) == pytest.approx(-2.0 * np.log(1e-15), rel=1e-4)  # ln(p + 1e-15)
    assert jnp.isfinite(gradient).all()


def test_scalar_head_in_closed_form():
    output = jnp.array([[[1.0], [2.0], [-1.0]], [[3.0], [2.0], [0.0]]])
    np.testing.assert_array_equal(SCALAR.value(output), output[..., 0])
    target = SCALAR.target(output, backup([1.0, 1.0, 0.0], [0.9, 0.5, 0.9], [0.5, -1.0, 2.0]))
    expected = [1.0 + 0.9 * (2.0 - 0.5), 1.0 + 0.5 * (2.0 + 1.0), 0.9 * (-0.5 - 2.0)]
    np.testing.assert_allclose(target, expected, rtol=1e-6)
    loss, metrics = SCALAR.loss(output, jnp.array([0.0, 1.0, 2.0]))
    # Half of mean (1, 1, 9) plus half of mean (9, 1, 4).
    assert float(loss) == pytest.approx(0.5 * 11.0 / 3.0 + 0.5 * 14.0 / 3.0)
    assert metrics == {}
