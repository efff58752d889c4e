"""The critics: layer by layer, side by side, and over the joint batch."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.critics.critics import CriticConfig
from dime.critics.heads import CategoricalHead, ScalarHead
from dime.types import EnvSpec
from tests import joint_critics

SPEC = EnvSpec(obs_dim=3, action_dim=2)
CONFIG = CriticConfig(hidden_dim=8, num_atoms=7, v_min=-1.0, v_max=1.0)
ROWS = 16


init_critics = jax.jit(joint_critics.init_critics, static_argnums=(0, 1, 2))
joint_outputs = jax.jit(joint_critics.joint_outputs)
evaluate_critics = jax.jit(joint_critics.evaluate_critics)


def pairs(key=0):
    """Rows of observation and action."""
    return jax.random.normal(jax.random.key(key), (ROWS, 5))


def critic_number(index, tree):
    """One critic's leaves, or one critic's statistics."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)


def batch_norm(x, mean, variance):
    return (x - mean) / np.sqrt(variance + 1e-3)


def forward(critic, x, statistics):
    """BatchRenorm of the pair; Dense, ReLU, BatchRenorm twice; Dense. Scales 1 and biases 0."""
    x = batch_norm(x, *statistics(x, 0))
    for index, layer in enumerate(critic.hidden, start=1):
        x = np.maximum(x @ layer.kernel, 0.0)
        x = batch_norm(x, *statistics(x, index))
    return x @ critic.output.kernel


@pytest.fixture(scope="module")
def made():
    return init_critics(CONFIG, CONFIG.make_head().output_dim, SPEC, jax.random.key(0))


def test_shapes_and_two_different_critics(made):
    critics, stats = made
    assert critics.hidden[0].kernel.shape == (2, 5, 8)
    assert critics.output.kernel.shape == (2, 8, 7)
    assert [running.mean.shape for running in stats] == [(2, 5), (2, 8), (2, 8)]
    for layer in (*critics.hidden, critics.output):
        assert jnp.abs(layer.kernel[0] - layer.kernel[1]).max() > 0.1
    outputs = evaluate_critics(critics, stats, pairs())
    assert outputs.shape == (2, ROWS, 7)
    assert jnp.abs(outputs[0] - outputs[1]).max() > 0.1


def test_evaluation_mode_is_the_network_with_running_statistics(made):
    critics, _ = made
    _, _, stats = joint_outputs(*made, pairs(1), pairs(2))  # statistics that are not 0 and 1
    outputs = evaluate_critics(critics, stats, pairs())
    for index in range(2):
        critic, running = critic_number(index, (critics, stats))
        statistics = lambda x, i, running=running: (running[i].mean, running[i].variance)  # noqa: E731
        expected = forward(critic, np.asarray(pairs()), statistics)
        np.testing.assert_allclose(outputs[index], expected, rtol=1e-4, atol=1e-4)
    shaped = evaluate_critics(critics, stats, pairs().reshape(4, 4, 5))
    np.testing.assert_allclose(shaped.reshape(2, ROWS, 7), outputs, rtol=1e-5, atol=1e-5)
    alone = evaluate_critics(critics, stats, pairs()[3])
    np.testing.assert_allclose(alone, outputs[:, 3], rtol=1e-4, atol=1e-5)


def test_joint_pass_normalises_current_and_next_pairs_together(made):
    critics, _ = made
    first, second = pairs(1), pairs(2) + 2.0
    current, next_outputs, stats = joint_outputs(*made, first, second)
    both = np.concatenate([first, second])
    for index in range(2):
        critic = critic_number(index, critics)
        expected = forward(critic, both, lambda x, i: (x.mean(axis=0), x.var(axis=0)))
        np.testing.assert_allclose(current[index], expected[:ROWS], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(next_outputs[index], expected[ROWS:], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(stats[0].mean[0], 0.01 * both.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(stats[0].num_calls, [1, 1])


def test_joint_pass_differs_from_two_separate_passes(made):
    first, second = pairs(1), pairs(2) + 2.0
    current, next_outputs, _ = joint_outputs(*made, first, second)
    critics, stats = made
    train = jax.jit(jax.vmap(lambda c, s, x: c.train(x, s)[0], in_axes=(0, 0, None)))
    separate = [train(critics, stats, x) for x in (first, second)]
    assert jnp.abs(current - separate[0]).max() > 0.1
    assert jnp.abs(next_outputs - separate[1]).max() > 0.1


def test_number_and_depth_of_the_critics_are_configured():
    config = CriticConfig(hidden_dim=4, num_hidden_layers=3, num_critics=5, head="scalar")
    critics, stats = init_critics(config, config.make_head().output_dim, SPEC, jax.random.key(1))
    assert evaluate_critics(critics, stats, pairs()).shape == (5, ROWS, 1)
    assert len(critics.hidden) == 3
    assert len(critics.norms) == len(stats) == 4


def test_head_is_the_configured_one():
    assert CONFIG.make_head() == CategoricalHead(7, -1.0, 1.0, 0.005)
    assert CriticConfig(head="scalar").make_head() == ScalarHead()


def test_warmup_is_configured():
    config = replace(CONFIG, renorm_warmup_updates=1)
    critics, stats = init_critics(config, config.make_head().output_dim, SPEC, jax.random.key(2))
    cold, _, stats = joint_outputs(critics, stats, pairs(1) + 3.0, pairs(2))
    warm, _, _ = joint_outputs(critics, stats, pairs(1) + 3.0, pairs(2))
    assert jnp.abs(cold - warm).max() > 0.1
