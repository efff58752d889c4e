"""The step embedding against its formula in NumPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from dime.networks.chain_networks import StepEmbedding

WIDTH = 6


def gelu(x):
    return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))


def formula(embedding, step):
    """[sin, cos] of c_j n + phase_j with c from 0.1 to 100; Dense, GELU, Dense."""
    frequencies = 0.1 + (100.0 - 0.1) * np.arange(WIDTH) / (WIDTH - 1)
    angles = frequencies * step + np.asarray(embedding.phase, np.float64)
    features = np.concatenate([np.sin(angles), np.cos(angles)])
    hidden = gelu(features @ embedding.hidden.kernel + np.asarray(embedding.hidden.bias))
    return hidden @ embedding.output.kernel + np.asarray(embedding.output.bias)


def random_embedding():
    """With biases and phases that are not 0."""
    key, phase_key, hidden_key, output_key = jax.random.split(jax.random.key(0), 4)
    new = [jax.random.normal(k, (WIDTH,)) for k in (phase_key, hidden_key, output_key)]
    where = lambda e: [e.phase, e.hidden.bias, e.output.bias]  # noqa: E731
    return eqx.tree_at(where, StepEmbedding(WIDTH, key), new)


def test_is_the_formula_of_the_raw_step_index():
    embedding = random_embedding()
    expected = np.stack([formula(embedding, step) for step in range(20)])
    np.testing.assert_allclose(embedding(jnp.arange(20)), expected, rtol=1e-4, atol=1e-4)
    assert embedding(jnp.asarray(7)).shape == (WIDTH,)
    np.testing.assert_allclose(embedding(jnp.asarray(7)), expected[7], rtol=1e-4, atol=1e-4)


def test_phases_start_at_zero_and_are_learnt():
    embedding = StepEmbedding(WIDTH, jax.random.key(1))
    np.testing.assert_array_equal(embedding.phase, jnp.zeros(WIDTH))
    gradient = jax.grad(lambda e: e(jnp.arange(4)).sum())(embedding)
    assert jnp.abs(gradient.phase).min() > 0.0
