"""Critic and policy losses: what they are made of, and where gradients flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.critics.critics import CriticConfig
from dime.critics.heads import SoftBackup
from dime.types import EnvSpec, Transition
from dime.updates.max_entropy import max_entropy_policy_loss
from tests import joint_critics
from tests.joint_critics import (
    combined_value,
    evaluate_critics,
    joint_critic_loss,
    joint_outputs,
)

SPEC, ROWS = EnvSpec(obs_dim=3, action_dim=2), 12
CONFIGS = {
    "categorical": CriticConfig(hidden_dim=8, num_atoms=11, v_min=-10.0, v_max=10.0),
    "scalar": CriticConfig(hidden_dim=8, head="scalar"),
}


init_critics = jax.jit(joint_critics.init_critics, static_argnums=(0, 1, 2))


def batch():
    keys = jax.random.split(jax.random.key(0), 4)
    transition = Transition(
        obs=jax.random.normal(keys[0], (ROWS, 3)),
        action=jax.random.uniform(keys[1], (ROWS, 2), minval=-1.0),
        reward=jnp.linspace(-1.0, 1.0, ROWS),
        next_obs=2.0 + jax.random.normal(keys[2], (ROWS, 3)),
        terminated=jnp.arange(ROWS) % 4 == 0,
    )
    backup = SoftBackup(
        reward=transition.reward,
        discount=0.9 * (1.0 - transition.terminated),
        entropy_cost=jnp.linspace(0.5, -0.5, ROWS),
    )
    return transition, jax.random.uniform(keys[3], (ROWS, 2), minval=-1.0), backup


def pairs_of(transition, next_action):
    pairs = jnp.concatenate([transition.obs, transition.action], axis=-1)
    return pairs, jnp.concatenate([transition.next_obs, next_action], axis=-1)


@pytest.mark.parametrize("head_name", CONFIGS)
def test_critic_loss_is_the_heads_loss_of_the_joint_pass(head_name):
    config = CONFIGS[head_name]
    head = config.make_head()
    critics, stats = init_critics(config, config.make_head().output_dim, SPEC, jax.random.key(1))
    transition, next_action, backup = batch()
    loss, (new_stats, metrics) = jax.jit(joint_critic_loss, static_argnums=5)(
        critics, stats, transition, next_action, backup, head
    )
    current, following, expected_stats = jax.jit(joint_outputs)(
        critics, stats, *pairs_of(transition, next_action)
    )
    expected, _ = head.loss(current, head.target(following, backup))
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert float(metrics["critic_loss"]) == float(loss)
    assert float(metrics["q_mean"]) == pytest.approx(float(head.value(current).mean()), rel=1e-4)
    for ours, reference in zip(
        jax.tree.leaves(new_stats), jax.tree.leaves(expected_stats), strict=True
    ):
        np.testing.assert_allclose(ours, reference, rtol=1e-6, atol=1e-7)


def gradients(config, variant):
    """Value and gradient of the critic loss: the package's, or cut elsewhere."""
    head = config.make_head()
    critics, stats = init_critics(config, config.make_head().output_dim, SPEC, jax.random.key(1))
    transition, next_action, backup = batch()
    pairs, next_pairs = pairs_of(transition, next_action)
    _, following, _ = jax.jit(joint_outputs)(critics, stats, pairs, next_pairs)
    target = head.target(following, backup)  # numbers: they do not depend on the variable below

    def ours(critics):
        return joint_critic_loss(critics, stats, transition, next_action, backup, head)[0]

    def fixed_target(critics):
        current, _, _ = joint_outputs(critics, stats, pairs, next_pairs)
        return head.loss(current, target)[0]

    def moving_target(critics):
        current, following, _ = joint_outputs(critics, stats, pairs, next_pairs)
        return head.loss(current, head.target(following, backup))[0]

    def next_rows_cut(critics):
        # As if the next pairs' share of the batch statistics were a constant.
        def train(critic, running):
            x, constant = pairs, next_pairs
            x, constant = _shared_norm(critic.norms[0], x, constant, running[0])
            for layer, norm, statistics in zip(
                critic.hidden, critic.norms[1:], running[1:], strict=True
            ):
                x, constant = jax.nn.relu(layer(x)), jax.nn.relu(layer(constant))
                x, constant = _shared_norm(norm, x, constant, statistics)
            return critic.output(x)

        return head.loss(jax.vmap(train)(critics, stats), target)[0]

    variants = [ours, fixed_target, moving_target, next_rows_cut]
    loss = {f.__name__: f for f in variants}[variant]
    return jax.jit(jax.value_and_grad(loss))(critics)


def _shared_norm(norm, x, constant, running):
    rows = jnp.concatenate([x, jax.lax.stop_gradient(constant)])
    normalised, _ = norm.train(rows, running)
    return jnp.split(normalised, 2)


def difference(first, second):
    leaves = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return max(float(jnp.abs(a - b).max()) for a, b in leaves)


@pytest.mark.parametrize("head_name", CONFIGS)
def test_only_the_target_is_held_fixed(head_name):
    config = CONFIGS[head_name]
    value, gradient = gradients(config, "ours")
    same_value, same = gradients(config, "fixed_target")
    assert float(value) == pytest.approx(float(same_value), rel=1e-5)
    assert difference(gradient, same) < 1e-4
    # The same losses, but with the gradient cut, or let through, elsewhere.
    for variant in ("next_rows_cut", "moving_target"):
        other_value, other = gradients(config, variant)
        assert float(value) == pytest.approx(float(other_value), rel=1e-4)
        assert difference(gradient, other) > 0.05


def test_combined_value_is_the_mean_over_the_critics_in_evaluation_mode():
    config = CONFIGS["categorical"]
    head = config.make_head()
    critics, stats = init_critics(config, config.make_head().output_dim, SPEC, jax.random.key(1))
    transition, _, _ = batch()
    value = combined_value(critics, stats, transition.obs, transition.action, head)
    pairs = jnp.concatenate([transition.obs, transition.action], axis=-1)
    outputs = evaluate_critics(critics, stats, pairs)
    expected = 0.5 * (head.value(outputs[0]) + head.value(outputs[1]))
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    # Not the minimum, and one row's value does not depend on the others.
    assert jnp.abs(value - head.value(outputs).min(axis=0)).max() > 0.01
    alone = combined_value(critics, stats, transition.obs[3], transition.action[3], head)
    np.testing.assert_allclose(alone, value[3], rtol=1e-4, atol=1e-5)


def test_policy_loss_in_closed_form():
    log_prob, value = jnp.array([1.0, -2.0, 4.0]), jnp.array([3.0, 0.0, -6.0])
    loss = max_entropy_policy_loss(log_prob, value, jnp.asarray(0.5))
    assert float(loss) == pytest.approx((0.5 * 3.0 - (-3.0)) / 3.0)
    by_log_prob, by_value = jax.grad(max_entropy_policy_loss, argnums=(0, 1))(
        log_prob, value, jnp.asarray(0.5)
    )
    np.testing.assert_allclose(by_log_prob, jnp.full(3, 0.5 / 3.0), rtol=1e-6)
    np.testing.assert_allclose(by_value, jnp.full(3, -1.0 / 3.0), rtol=1e-6)
