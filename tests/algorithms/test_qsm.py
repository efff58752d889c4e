"""QSM: what its network is matched to, how it explores, and how its learning rate falls."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.algorithms.qsm import QsmConfig, QsmPolicyConfig, qsm
from dime.critics.critics import TargetCriticConfig
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

CONFIG = QsmConfig(
    policy=QsmPolicyConfig(num_denoising_steps=3, hidden_dim=8, num_hidden_layers=1),
    critic=TargetCriticConfig(hidden_dim=8, num_hidden_layers=1, learning_rate=1e-2),
    alignment=7.0,
)
ONLINE = quadratics((2.0, 0.5), ((0.5, -0.5), (-0.25, 0.0)), (1.0, 0.5))
SLOW = quadratics((1.0, 3.0), ((0.1, 0.0), (0.0, 0.9)))


@functools.cache
def agent(config=CONFIG):
    made = qsm(config, SPEC)
    return made, jax.jit(made.update), jax.jit(made.act["explore"])


@functools.cache
def state(config=CONFIG):
    return with_critics(jax.jit(agent()[0].init)(jax.random.key(0)), ONLINE, config, SLOW)


@functools.cache
def updated():
    """The state after an update, its metrics, and the key of the policy's part."""
    _, update, _ = agent()
    after, metrics = update(state(), batch(), jax.random.key(1), counters())
    return after, metrics, split(1)[1]


def field(critics, action):
    """The critics' mean gradient of -Q, M times: M * c * (action - mode), averaged over both."""
    away = action[:, None] - critics.mode
    return CONFIG.alignment * (critics.curvature * away).mean(axis=1)


def test_the_network_is_matched_to_the_same_field_at_every_step():
    """Of the critics just updated, at the noisy action wherever it is, without any factor."""
    after, metrics, key = updated()
    transition, policy = batch().transition, state().policy.module
    noisy, _, index = jax.jit(lambda key: policy.noise(transition.action, key))(key)
    assert np.abs(noisy).max() > 1.0
    assert len(np.unique(index)) == 3
    target = field(after.critics.online, noisy)

    @jax.jit
    @jax.value_and_grad
    def matching(policy):
        return ((policy.denoiser(noisy, transition.obs, index) - target) ** 2).mean()

    loss, gradient = matching(policy)
    assert float(metrics["policy_loss"]) == pytest.approx(float(loss), rel=1e-4)
    norm = np.sqrt(sum((np.asarray(leaf) ** 2).sum() for leaf in jax.tree.leaves(gradient)))
    assert float(metrics["policy_gradient_norm"]) == pytest.approx(norm, rel=1e-4)
    # Adam's first moment is a tenth of the first gradient.
    mean = jax.tree.map(lambda leaf: 10.0 * leaf, after.policy.optimizer[0].mu)
    assert_trees_close(mean, gradient, 1e-3)


def test_critics_are_trained_on_noisy_actions_of_the_policy():
    after, metrics, _ = updated()
    _, _, explore = agent()
    transition = batch().transition
    next_action = explore(state(), transition.next_obs, split(1)[0], counters())
    expected = bellman_loss(state(), transition, next_action, 0.99)
    assert float(metrics["critic_loss"]) == pytest.approx(expected, rel=1e-4)
    followed = jax.tree.map(lambda s, o: 0.995 * s + 0.005 * o, SLOW, after.critics.online)
    assert_trees_close(after.critics.slow, followed)


def test_actions_in_training_have_gaussian_noise_and_stay_in_the_box():
    quiet = dataclasses.replace(CONFIG, exploration_std=0.0)
    obs = jnp.tile(batch().transition.obs[:1], (4_000, 1))
    noisy, clean = (
        np.asarray(agent(config)[2](state(), obs, jax.random.key(3), counters()))
        for config in (CONFIG, quiet)
    )
    inside = np.abs(clean) < 0.6
    assert inside.sum() > 200
    assert (noisy - clean)[inside].std() == pytest.approx(0.1, rel=0.1)
    assert np.abs(noisy).max() == 1.0


def test_the_policys_learning_rate_falls_to_nothing_along_a_cosine():
    policy = dataclasses.replace(CONFIG.policy, decay_updates=2, learning_rate=1e-2)
    config = dataclasses.replace(CONFIG, policy=policy)
    _, update, _ = agent(config)
    here, moved = state(), []
    for number in range(3):
        before = here.policy.module.denoiser.mlp.layers[-1].bias
        here, _ = update(here, batch(), jax.random.key(number), counters(update=number))
        moved.append(float(jnp.abs(here.policy.module.denoiser.mlp.layers[-1].bias - before).max()))
    assert moved[0] == pytest.approx(1e-2, rel=1e-3)  # Adam's first step
    assert 0.1e-2 < moved[1] < 0.6e-2  # half the rate
    assert moved[2] == 0.0


def test_the_modes_are_without_added_noise():
    made, _, _ = agent()
    obs = batch().transition.obs
    action = jax.jit(made.act["stochastic"])(state(), obs, jax.random.key(2), counters())
    expected = jax.jit(DdpmPolicy.sample)(state().policy.module, obs, jax.random.key(2))
    np.testing.assert_allclose(action, expected, atol=1e-5)
    assert not same(action, agent()[2](state(), obs, jax.random.key(2), counters()))
