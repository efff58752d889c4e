"""One step of linear critics, whose target, gradient and copies can be written down."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dime.critics.critics import Critics, CriticState, critic_outputs
from dime.critics.heads import QuantileHead, ScalarHead, SoftBackup
from dime.networks.layers import Mlp
from dime.types import Transition
from tests.drawn import drawn, normal

ROWS, RATE, DISCOUNT = 12, 0.1, 0.9
TRANSITION = Transition(
    obs=normal(0, ROWS, 3),
    action=normal(1, ROWS, 2),
    reward=normal(2, ROWS),
    next_obs=normal(3, ROWS, 3),
    terminated=jnp.arange(ROWS) % 3 == 0,
)
NEXT_ACTION, COST = normal(4, ROWS, 2), normal(5, ROWS)


def linear(seed, output_dim=1):
    make = partial(Mlp, (5, output_dim), jnp.tanh)
    return drawn(lambda key: jax.vmap(make)(jax.random.split(key, 2)), seed)


def critics_of(optimizer, output_dim=1):
    """The copies are not what the critics are."""
    online = linear(7, output_dim)
    return CriticState(online, optimizer.init(online), slow=linear(8, output_dim))


def trained_by(optimizer, head):
    return Critics(lambda key: None, 2, head, optimizer, target_rate=0.25)


def values(critics, obs, action):
    """Critics by rows, in double precision."""
    layer = critics.layers[0]
    pairs = np.concatenate([obs, action], axis=-1).astype(np.float64)
    return np.stack([(pairs @ layer.kernel[i] + layer.bias[i])[:, 0] for i in range(2)]), pairs


@pytest.mark.parametrize("combine", [jnp.min, jnp.mean])
def test_a_step_goes_down_the_squared_distance_from_the_copies_backup(combine):
    optimizer, head = optax.sgd(RATE), ScalarHead(combine, weight=1.0)
    critics = critics_of(optimizer)
    backup = SoftBackup.of(TRANSITION, DISCOUNT, COST)
    step = jax.jit(trained_by(optimizer, head).step)
    after, metrics = step(critics, TRANSITION, NEXT_ACTION, backup)
    following, _ = values(critics.slow, TRANSITION.next_obs, NEXT_ACTION)
    following = (following.min if combine is jnp.min else following.mean)(axis=0)
    alive = 1.0 - np.asarray(TRANSITION.terminated)
    target = TRANSITION.reward + DISCOUNT * alive * (following - COST)
    now, pairs = values(critics.online, TRANSITION.obs, TRANSITION.action)
    residual = now - np.asarray(target)
    assert float(metrics["critic_loss"]) == pytest.approx(
        (residual**2).mean(axis=1).sum(), rel=1e-4
    )
    assert float(metrics["q_mean"]) == pytest.approx(now.mean(), rel=1e-4)
    of_kernel, of_bias = 2.0 * residual @ pairs / ROWS, 2.0 * residual.mean(axis=1)
    before, moved = critics.online.layers[0], after.online.layers[0]
    np.testing.assert_allclose(moved.kernel[..., 0], before.kernel[..., 0] - RATE * of_kernel,
                               rtol=1e-3, atol=1e-4)  # fmt: skip
    np.testing.assert_allclose(moved.bias[:, 0], before.bias[:, 0] - RATE * of_bias, atol=1e-4)
    norm = np.sqrt((of_kernel**2).sum() + (of_bias**2).sum())
    assert float(metrics["critic_gradient_norm"]) == pytest.approx(norm, rel=1e-4)
    for copy, kept in zip(*map(jax.tree.leaves, (after.slow, critics.slow)), strict=True):
        np.testing.assert_array_equal(copy, kept)


def test_a_head_with_several_outputs_has_its_own_target_and_loss():
    optimizer, head = optax.sgd(RATE), QuantileHead(4)
    critics = critics_of(optimizer, output_dim=4)
    backup = SoftBackup.of(TRANSITION, DISCOUNT)
    step = jax.jit(trained_by(optimizer, head).step)
    _, metrics = step(critics, TRANSITION, NEXT_ACTION, backup)
    target = head.target(critic_outputs(critics.slow, TRANSITION.next_obs, NEXT_ACTION), backup)
    outputs = critic_outputs(critics.online, TRANSITION.obs, TRANSITION.action)
    assert float(metrics["critic_loss"]) == pytest.approx(
        float(head.loss(outputs, target)[0]), rel=1e-4
    )


def test_copies_follow_only_when_told():
    critics = critics_of(optax.sgd(RATE))
    after = trained_by(optax.sgd(RATE), ScalarHead()).follow(critics)
    online, slow, moved = (c.layers[0].kernel for c in (critics.online, critics.slow, after.slow))
    np.testing.assert_allclose(moved, 0.75 * slow + 0.25 * online, rtol=1e-5)
    np.testing.assert_array_equal(after.online.layers[0].kernel, online)


def test_value_is_one_number_from_all_critics_for_every_draw():
    critics, draws = linear(9), normal(6, 7, ROWS, 2)
    value = jax.jit(trained_by(optax.sgd(RATE), ScalarHead(jnp.min)).value)
    together = value(CriticState(critics, None), TRANSITION.obs, draws)
    assert together.shape == (7, ROWS)
    for draw in range(7):
        each, _ = values(critics, TRANSITION.obs, draws[draw])
        np.testing.assert_allclose(together[draw], each.min(axis=0), rtol=1e-4, atol=1e-5)
