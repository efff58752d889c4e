"""What the algorithms' tests have in common: a batch, critics that can be written down."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from dime.critics.critics import CriticState
from dime.types import Batch, Counters, EnvSpec, Transition
from tests.drawn import normal, uniform

SPEC = EnvSpec(obs_dim=3, action_dim=2, replay_capacity=64)


class Quadratic(eqx.Module):
    """`offset - curvature / 2 * |action - mode|^2`, whatever the observation."""

    curvature: Array
    mode: Array
    offset: Array

    def __call__(self, pairs):
        distance = ((pairs[..., -2:] - self.mode) ** 2).sum(axis=-1, keepdims=True)
        # A matrix product, as in a network, is computed once. What the compiler computes twice, and
        # once with a fused multiply-add, is not equal to itself, and then jnp.min has no gradient.
        terms = jnp.concatenate([distance, jnp.ones_like(distance)], axis=-1)
        return terms @ jnp.stack([-0.5 * self.curvature, self.offset])


def quadratics(curvatures, modes, offsets=(0.0, 0.0)):
    """Two critics."""
    numbers = (curvatures, modes, offsets)
    return Quadratic(*(jnp.asarray(n, jnp.float32).reshape(2, -1) for n in numbers))


def with_critics(state, online, config, slow=None):
    """The state with these critics, and others for their copies if they are given."""
    slow = jax.tree.map(jnp.copy, online) if slow is None else slow
    optimizer = config.critic.make_optimizer().init(online)
    return state._replace(critics=CriticState(online, optimizer, slow=slow))


def batch(num_rows=16, seed=0, terminated=None):
    """The transitions of the replay's first rows."""
    every_third = np.arange(num_rows) % 3 == 0
    transition = Transition(
        obs=normal((seed, 0), num_rows, 3),
        action=uniform((seed, 1), num_rows, 2),
        reward=normal((seed, 2), num_rows),
        next_obs=normal((seed, 3), num_rows, 3),
        terminated=jnp.asarray(every_third if terminated is None else [terminated] * num_rows),
    )
    return Batch(transition, jnp.arange(num_rows))


def counters(env_step=64, update=0):
    return Counters(jnp.int32(env_step), jnp.int32(update))


def split(seed, num=2):
    """The keys that an update makes of the one it is given."""
    return jax.random.split(jax.random.key(seed), num)


def bellman_loss(state, transition, next_action, discount):
    """Squared distance from the backup of the copies' smaller value: means, summed over critics."""

    def values(critics, obs, action):
        pairs = jnp.concatenate([obs, action], axis=-1)
        return np.asarray(jax.vmap(lambda critic: critic(pairs))(critics))[..., 0]

    following = values(state.critics.slow, transition.next_obs, next_action).min(axis=0)
    alive = 1.0 - np.asarray(transition.terminated)
    target = np.asarray(transition.reward) + discount * alive * following
    residual = values(state.critics.online, transition.obs, transition.action) - target
    return (residual**2).mean(axis=-1).sum()


def assert_trees_close(first, second, tolerance=1e-5):
    for a, b in zip(*map(jax.tree.leaves, (first, second)), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def same(first, second):
    """Whether two trees are equal bit for bit."""
    pairs = zip(*map(jax.tree.leaves, (first, second)), strict=True)
    return all(bool((a == b).all()) for a, b in pairs)
