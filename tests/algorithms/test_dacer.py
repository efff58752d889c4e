"""DACER: whose critics and noise an update follows, and both ways of the noise."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from dime.algorithms.dacer.dacer import DacerConfig, NoiseConfig, dacer
from dime.algorithms.dacer.gaussian import GaussianReturn, gaussian_loss, gaussian_target
from dime.critics.critics import TargetCriticConfig
from dime.policies.ddpm import DdpmPolicy, DdpmPolicyConfig
from tests.algorithms.pieces import (
    SPEC,
    Quadratic,
    assert_trees_close,
    batch,
    counters,
    quadratics,
    same,
    split,
    with_critics,
)

CONFIG = DacerConfig(
    policy=DdpmPolicyConfig(num_denoising_steps=3, hidden_dim=8, num_hidden_layers=1),
    critic=TargetCriticConfig(hidden_dim=8, num_hidden_layers=1, learning_rate=0.1),
    noise=NoiseConfig(estimate_every=3, num_actions=20),
)
AGENT = dacer(CONFIG, SPEC)
UPDATE, EXPLORE = jax.jit(AGENT.update), jax.jit(AGENT.act["explore"])
TRANSITION = batch().transition


class WithSpread(eqx.Module):
    """A mean that is quadratic in the action, and the same spread everywhere."""

    mean: Quadratic
    raw_std: Array

    def __call__(self, pairs):
        mean = self.mean(pairs)
        return jnp.concatenate([mean, jnp.broadcast_to(self.raw_std, mean.shape)], axis=-1)


ONLINE = WithSpread(quadratics((2.0, 0.5), ((0.5, -0.5), (-0.3, 0.0)), (1.0, 0.5)),
                    jnp.array([0.3, -0.4]))  # fmt: skip
SLOW = WithSpread(quadratics((1.0, 3.0), ((0.1, 0.0), (0.0, 0.9))), jnp.array([0.1, 0.6]))


def outputs(critics, action):
    pairs = jnp.concatenate([TRANSITION.obs, action], axis=-1)
    return jax.vmap(lambda critic: critic(pairs))(critics)


@functools.cache
def state():
    begun = jax.jit(AGENT.init)(jax.random.key(0))
    return with_critics(begun, ONLINE, CONFIG, SLOW)


def updated(update=0, here=None, seed=1):
    here = state() if here is None else here
    return UPDATE(here, batch(), jax.random.key(seed), counters(update=update))


def scaled(log_scale, here=None):
    """The state with this logarithm of the noise's scale."""
    here = state() if here is None else here
    scale = here.noise_scale._replace(log_value=jnp.float32(log_scale))
    return here._replace(noise_scale=scale)


def test_critics_learn_from_the_smaller_mean_of_a_fifth_of_the_reward():
    after, metrics = updated()
    action_key, draw_key = jax.random.split(split(1, 3)[0])
    action = EXPLORE(state(), TRANSITION.next_obs, action_key, counters())
    following = GaussianReturn.of(outputs(SLOW, action))
    alive = 1.0 - np.asarray(TRANSITION.terminated)
    target = gaussian_target(
        following, 0.2 * TRANSITION.reward, jnp.asarray(0.99 * alive), draw_key
    )
    returns = GaussianReturn.of(outputs(ONLINE, TRANSITION.action))
    spread = jnp.log1p(jnp.exp(ONLINE.raw_std))  # the first mean of the standard deviations
    expected = gaussian_loss(returns, target, spread)
    assert float(metrics["critic_loss"]) == pytest.approx(float(expected), rel=1e-3)
    np.testing.assert_allclose(after.spread, spread, rtol=1e-5)
    again, _ = updated(1, after)
    new = jnp.log1p(jnp.exp(after.critics.online.raw_std))
    np.testing.assert_allclose(again.spread, 0.995 * spread + 0.005 * new, rtol=1e-5)
    assert np.abs(new - spread).min() > 1e-3


def test_the_policy_follows_the_critics_and_the_noise_of_before():
    after, metrics = updated()
    action = EXPLORE(state(), TRANSITION.obs, split(1, 3)[1], counters())

    def loss(critics):
        return -float(outputs(critics, action)[..., 0].min(axis=0).mean())

    assert float(metrics["policy_loss"]) == pytest.approx(loss(ONLINE), rel=1e-4)
    assert abs(loss(after.critics.online) / loss(ONLINE) - 1.0) > 0.01
    assert float(metrics["policy_gradient_norm"]) > 1e-3  # through the noise and the whole chain


@pytest.mark.parametrize("update, policy_moves, noise_moves", [
    (0, True, True), (1, False, False), (2, True, False), (3, False, True),
])  # fmt: skip
def test_policy_and_copies_move_in_every_second_update_and_the_noise_when_it_is_due(
    update, policy_moves, noise_moves
):
    after, _ = updated(update)
    assert same(after.policy.module, state().policy.module) is not policy_moves
    assert same(after.noise_scale.log_value, state().noise_scale.log_value) is not noise_moves
    assert not same(after.critics.online, ONLINE)
    if policy_moves:  # the copies follow the critics just updated
        slow = jax.tree.map(lambda s, o: 0.995 * s + 0.005 * o, SLOW, after.critics.online)
        assert_trees_close(after.critics.slow, slow)
    else:
        assert same(after.critics.slow, SLOW)


def collapsed():
    """A policy that does the same in every state: its estimates are all far outside the box."""
    bias = lambda s: s.policy.module.denoiser.mlp.layers[-1].bias  # noqa: E731
    return eqx.tree_at(bias, state(), jnp.array([-1e3, 1e3]))


@pytest.mark.parametrize("is_collapsed", [True, False])
def test_noise_grows_below_the_target_entropy_and_shrinks_above(is_collapsed):
    here = scaled(-20.0, collapsed()) if is_collapsed else scaled(np.log(30.0))
    after, metrics = updated(here=here)
    entropy = float(metrics["policy_entropy_per_dim"])
    if is_collapsed:  # all points are the same: nothing but what is added to the covariance
        assert entropy == pytest.approx(0.5 * np.log(2.0 * np.pi * np.e * 1e-6), abs=0.01)
    else:
        assert -0.9 < entropy
    moved = float(after.noise_scale.log_value - here.noise_scale.log_value)
    assert moved == pytest.approx(0.03 if is_collapsed else -0.03, rel=1e-3)  # Adam's first step
    std = 0.1 * np.exp(float(after.noise_scale.log_value))
    assert float(metrics["noise_std"]) == pytest.approx(std, rel=1e-4)


def test_the_entropy_is_that_of_the_policy_of_before():
    """The same from the same state and key, whether the policy has just been updated or not."""
    with_policy, without = (float(updated(n)[1]["policy_entropy_per_dim"]) for n in (0, 3))
    assert with_policy == pytest.approx(without, abs=1e-6)


def test_actions_in_training_have_a_tenth_of_the_scale_as_noise():
    obs = jnp.tile(TRANSITION.obs[:1], (4_000, 1))
    clean, noisy = (
        np.asarray(EXPLORE(here, obs, jax.random.key(2), counters()))
        for here in (scaled(-30.0), state())
    )
    assert np.exp(float(state().noise_scale.log_value)) == pytest.approx(3.0, rel=1e-5)
    near_zero = np.abs(clean) < 0.1
    assert near_zero.sum() > 100
    assert (noisy - clean)[near_zero].std() == pytest.approx(0.3, rel=0.15)
    assert np.abs(noisy).max() == 1.0


def test_evaluation_is_without_the_noise():
    act = jax.jit(AGENT.act["observation_seeded"])
    action = act(state(), TRANSITION.obs, jax.random.key(2), counters())
    expected = jax.jit(DdpmPolicy.observation_seeded)(state().policy.module, TRANSITION.obs)
    np.testing.assert_allclose(action, expected, atol=1e-5)
