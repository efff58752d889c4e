"""QVPO: the weighted loss over best and uniform actions, its weights, and whose best is taken."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.algorithms.dipo import SlowDdpmPolicyConfig
from dime.algorithms.qvpo import QvpoConfig, UniformActionsConfig, advantage_of_best, qvpo
from dime.critics.critics import TargetCriticConfig
from dime.policies.ddpm import DdpmPolicy
from tests.algorithms.pieces import (
    SPEC,
    assert_trees_close,
    batch,
    bellman_loss,
    counters,
    quadratics,
    split,
    with_critics,
)
from tests.drawn import normal

ROWS, NUM_UNIFORM, DRAWS = 8, 3, 5
CONFIG = QvpoConfig(
    policy=SlowDdpmPolicyConfig(
        num_denoising_steps=3, hidden_dim=8, num_hidden_layers=1, target_rate=0.1
    ),
    critic=TargetCriticConfig(hidden_dim=8, num_hidden_layers=1, learning_rate=1e-2),
    uniform_actions=UniformActionsConfig(num=NUM_UNIFORM, decay_env_steps=1_000),
    num_training_candidates=DRAWS,
    num_exploration_candidates=4,
)
ONLINE = quadratics((2.0, 0.5), ((0.5, -0.5), (-0.25, 0.0)), (1.0, 0.5))
SLOW = quadratics((1.0, 3.0), ((0.1, 0.0), (0.0, 0.9)))
UPDATE = jax.jit(qvpo(CONFIG, SPEC).update)
SAMPLE = jax.jit(DdpmPolicy.sample, static_argnames="num")


@functools.cache
def state():
    """With a slow policy that is not the policy."""
    begun = jax.jit(qvpo(CONFIG, SPEC).init)(jax.random.key(0))
    moved = jax.tree.map(lambda leaf: leaf + 0.1 * normal(5, *leaf.shape), begun.policy.module)
    return with_critics(begun, ONLINE, CONFIG, SLOW)._replace(slow_policy=moved)


@functools.cache
def updated(env_step=0):
    at = counters(env_step=env_step)
    return UPDATE(state(), batch(2 * ROWS), jax.random.key(1), at)


def smaller_value(critics, action):
    """Draws by rows."""
    distance = ((action[..., None, :] - critics.mode) ** 2).sum(axis=-1)
    return (critics.offset[:, 0] - 0.5 * critics.curvature[:, 0] * distance).min(axis=-1)


def rows_and_keys():
    """The policy's half of the batch, and the keys of its draws, uniform actions and noise."""
    _, rows = batch(2 * ROWS).halves()
    return rows.transition.obs, jax.random.split(split(1)[1], 3)


def test_the_policy_is_the_weighted_imitation_of_best_and_uniform_actions():
    after, metrics = updated()
    obs, (draw_key, uniform_key, noise_key) = rows_and_keys()
    drawn = np.asarray(SAMPLE(state().policy.module, obs, draw_key, num=DRAWS))
    value = np.asarray(smaller_value(after.critics.online, drawn))  # of the critics just updated
    best = drawn[value.argmax(axis=0), np.arange(ROWS)]
    advantage = value.max(axis=0) - value.mean(axis=0)
    assert float(metrics["advantage"]) == pytest.approx(advantage.mean(), rel=1e-4)
    shape = (NUM_UNIFORM, ROWS, 2)
    others = jax.random.uniform(uniform_key, shape, minval=-1.0, maxval=1.0)
    action = jnp.concatenate([best[None], others])
    rows = jnp.broadcast_to(obs, (1 + NUM_UNIFORM, ROWS, 3))
    errors = np.asarray(
        jax.jit(DdpmPolicy.noise_errors)(state().policy.module, rows, action, noise_key)
    )
    total = 0.0
    for row in range(ROWS):
        for place in range(1 + NUM_UNIFORM):
            weight = advantage[row] * (1.0 if place == 0 else 0.02)
            total += weight * errors[place, row].sum()
    expected = total / (ROWS * (1 + NUM_UNIFORM) * 2)
    assert float(metrics["policy_loss"]) == pytest.approx(expected, rel=1e-3)


def test_no_advantage_is_negative_where_all_draws_are_worth_the_same():
    value = jnp.broadcast_to(jnp.linspace(-3.0, 3.0, 997), (63, 997))
    assert (value.max(axis=0) - value.mean(axis=0) < 0.0).any()  # by rounding
    assert (advantage_of_best(value) >= 0.0).all()
    np.testing.assert_allclose(advantage_of_best(jnp.array([[1.0], [4.0], [1.0]])), [2.0])


def policy_loss(env_step):
    return float(updated(env_step)[1]["policy_loss"])


def test_the_uniform_actions_weight_falls_from_two_hundredths_to_a_tenth_of_that():
    """The loss is linear in the weight: at half time it is a half, at last 0.002."""
    first, half, last = (policy_loss(step) for step in (0, 500, 2_000))
    assert (first - half) / (half - last) == pytest.approx((0.02 - 0.01) / (0.01 - 0.002), rel=0.05)
    assert policy_loss(950) == last  # 0.001 would be below the end


def best(policy, critics, obs, key, num):
    drawn = np.asarray(SAMPLE(policy, obs, key, num=num))
    winner = np.asarray(smaller_value(critics, drawn)).argmax(axis=0)
    return drawn[winner, np.arange(len(obs))]


def test_the_best_of_four_of_the_slow_ones_stands_in_the_target():
    _, metrics = updated()
    for_critics, _ = batch(2 * ROWS).halves()
    transition = for_critics.transition
    action = best(state().slow_policy, SLOW, transition.next_obs, split(1)[0], 4)
    expected = bellman_loss(state(), transition, jnp.asarray(action), 0.99)
    assert float(metrics["critic_loss"]) == pytest.approx(expected, rel=1e-4)


def test_the_best_of_four_of_the_trained_ones_is_taken():
    obs = batch().transition.obs
    explore = jax.jit(qvpo(CONFIG, SPEC).act["explore"])
    action = explore(state(), obs, jax.random.key(3), counters())
    expected = best(state().policy.module, ONLINE, obs, jax.random.key(3), 4)
    np.testing.assert_allclose(action, expected, atol=1e-5)


def test_both_copies_follow_in_every_update():
    after, _ = updated()
    policy = jax.tree.map(lambda s, p: 0.9 * s + 0.1 * p, state().slow_policy, after.policy.module)
    assert_trees_close(after.slow_policy, policy)
    critics = jax.tree.map(lambda s, o: 0.995 * s + 0.005 * o, SLOW, after.critics.online)
    assert_trees_close(after.critics.slow, critics)
