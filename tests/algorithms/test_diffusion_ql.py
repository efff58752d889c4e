"""Diffusion-QL: its normalised value, the coin, its exploration, the copy that is averaged."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.algorithms.diffusion_ql import (
    AveragedPolicyConfig,
    DiffusionQlConfig,
    ExplorationConfig,
    diffusion_ql,
)
from dime.critics.critics import HeadedTargetCriticConfig
from dime.policies.ddpm import DdpmPolicy
from tests.algorithms.pieces import (
    SPEC,
    assert_trees_close,
    batch,
    bellman_loss,
    counters,
    quadratics,
    same,
    split,
    with_critics,
)
from tests.drawn import normal

CONFIG = DiffusionQlConfig(
    policy=AveragedPolicyConfig(
        num_denoising_steps=3, hidden_dim=8, num_hidden_layers=1, learning_rate=1e-2
    ),
    critic=HeadedTargetCriticConfig(hidden_dim=8, num_hidden_layers=1, learning_rate=0.2),
    behaviour_weight=0.3,
    num_action_candidates=6,
)
ONLINE = quadratics((2.0, 0.5), ((0.5, -0.5), (-0.25, 0.0)), (3.0, -2.0))
SLOW = quadratics((1.0, 3.0), ((0.1, 0.0), (0.0, 0.9)))
SAMPLE = jax.jit(DdpmPolicy.sample, static_argnames="num")
ERRORS = jax.jit(DdpmPolicy.noise_errors)


@functools.cache
def agent():
    made = diffusion_ql(CONFIG, SPEC)
    return made, jax.jit(made.update), jax.jit(made.act["explore"])


@functools.cache
def state():
    """With an averaged policy that is not the policy."""
    begun = jax.jit(agent()[0].init)(jax.random.key(0))
    moved = jax.tree.map(lambda leaf: leaf + 0.1 * normal(5, *leaf.shape), begun.policy.module)
    return with_critics(begun, ONLINE, CONFIG, SLOW)._replace(averaged_policy=moved)


def updated(seed=1, update=0):
    return agent()[1](state(), batch(), jax.random.key(seed), counters(update=update))


def values(critics, action):
    """Critics by rows."""
    distance = ((np.asarray(action)[:, None] - critics.mode) ** 2).sum(axis=-1)
    return np.asarray(critics.offset[:, 0] - 0.5 * critics.curvature[:, 0] * distance).T


def both_losses(critics, action):
    """With either critic ahead: its mean value over the mean size of the other's."""
    first, second = values(critics, action)
    return (
        -first.mean() / np.abs(second).mean(),
        -second.mean() / np.abs(first).mean(),
    )


def test_the_loss_is_one_critics_value_over_the_others_size_by_a_fair_coin():
    """Of the critics just updated; and, where that is asked for, what clones the replay."""
    heads, transition, policy = [], batch().transition, state().policy.module
    for seed in range(12):
        after, metrics = updated(seed)
        sample_key, _, behaviour_key = jax.random.split(split(seed)[1], 3)
        errors = ERRORS(policy, transition.obs, transition.action, behaviour_key)
        loss = float(metrics["policy_loss"]) - 0.3 * float(errors.mean())
        action = SAMPLE(policy, transition.obs, sample_key)
        losses = both_losses(after.critics.online, action)
        stale = both_losses(ONLINE, action)
        ahead = np.argmin(np.abs(np.array(losses) - loss))
        assert loss == pytest.approx(losses[ahead], rel=1e-3)
        assert abs(stale[ahead] / losses[ahead] - 1.0) > 5e-3
        heads.append(int(ahead))
    assert 2 < sum(heads) < 10
    assert DiffusionQlConfig().behaviour_weight == 0.0


def test_the_averaged_policys_action_stands_in_the_critics_target():
    _, metrics = updated()
    transition = batch().transition
    next_action = SAMPLE(state().averaged_policy, transition.next_obs, split(1)[0])
    expected = bellman_loss(state(), transition, next_action, 0.99)
    assert float(metrics["critic_loss"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("update, moves", [
    (0, False), (5, False), (999, False), (1000, True), (1001, False), (1005, True),
])  # fmt: skip
def test_the_average_begins_at_update_1000_and_moves_every_fifth(update, moves):
    """Until then it stays as it began: it is not set to the policy at 1000."""
    after, _ = updated(update=update)
    expected = state().averaged_policy
    if moves:
        expected = jax.tree.map(lambda a, p: 0.995 * a + 0.005 * p, expected, after.policy.module)
        assert_trees_close(after.averaged_policy, expected, 1e-6)
    assert same(after.averaged_policy, state().averaged_policy) is not moves


def test_uniform_actions_grow_rare_along_a_line():
    exploration = ExplorationConfig()
    steps = jnp.array([0, 50_000, 100_000, 900_000])
    np.testing.assert_allclose(exploration.share(steps), [1.0, 0.505, 0.01, 0.01], rtol=1e-5)


def test_exploring_is_uniform_as_often_as_its_share():
    obs = jnp.tile(batch().transition.obs[:1], (2_000, 1))
    explore = agent()[2]
    actions = {
        step: np.asarray(explore(state(), obs, jax.random.key(2), counters(env_step=step)))
        for step in (0, 50_000, 100_000)
    }
    np.testing.assert_allclose(actions[0].std(axis=0), 1.0 / np.sqrt(3.0), rtol=0.05)
    np.testing.assert_allclose(actions[0].mean(axis=0), 0.0, atol=0.05)
    # With the same key, the rows that are not uniform are those of the policy.
    unlike = [(actions[step] != actions[0]).any(axis=1).mean() for step in (50_000, 100_000)]
    np.testing.assert_allclose(unlike, [1.0 - 0.505, 0.99], atol=0.03)


def test_actions_are_drawn_by_a_softmax_of_the_copies_smaller_value():
    obs = jnp.tile(batch().transition.obs[:1], (4_000, 1))
    drawn = np.asarray(SAMPLE(state().policy.module, obs, split(3)[0], num=6))
    value = np.stack([values(SLOW, candidate).min(axis=0) for candidate in drawn])
    act = jax.jit(agent()[0].act["softmax_of_n"])
    chosen = np.asarray(act(state(), obs, jax.random.key(3), counters()))
    is_chosen = (np.abs(drawn - chosen) < 1e-5).all(axis=-1)
    assert is_chosen.any(axis=0).all()
    chances = np.exp(value) / np.exp(value).sum(axis=0)
    expected = (chances * value).sum(axis=0).mean()
    assert abs(expected - value.mean()) > 0.1
    of_chosen = value[is_chosen.argmax(axis=0), np.arange(4_000)]
    assert of_chosen.mean() == pytest.approx(expected, abs=0.03)
