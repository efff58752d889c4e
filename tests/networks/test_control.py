"""The control network: the split first layer is the unsplit one, and how it starts."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.networks.chain_networks import MAX_OUTPUT, ControlNetwork
from dime.networks.layers import gelu

OBS, ACTION, HIDDEN, STEPS = 5, 2, 8, 6


def random_control(scale=1.0):
    """With a last layer and biases that are not nearly 0."""
    key, *keys = jax.random.split(jax.random.key(0), 5)
    network = ControlNetwork(OBS, ACTION, HIDDEN, 3, key)
    where = lambda c: [c.output.kernel, c.output.bias, c.hidden[0].bias, c.hidden[2].bias]  # noqa: E731
    new = [scale * jax.random.normal(k, x.shape) for k, x in zip(keys, where(network), strict=True)]
    return eqx.tree_at(where, network, new)


def unsplit(network, obs, latent, step):
    """The MLP of the concatenated `[latent, obs, embedding]`."""
    embedding = network.embedding(jnp.asarray(step))
    embedding = jnp.broadcast_to(embedding, (*obs.shape[:-1], HIDDEN))
    x = jnp.concatenate([latent, obs, embedding], axis=-1)
    for layer in network.hidden:
        x = gelu(layer(x))
    return jnp.clip(network.output(x), -MAX_OUTPUT, MAX_OUTPUT)


@pytest.mark.parametrize("shape", [(), (7,), (3, 4)], ids=str)
def test_bound_control_equals_the_unsplit_network(shape):
    network = random_control()
    obs_key, latent_key = jax.random.split(jax.random.key(1))
    obs = jax.random.normal(obs_key, (*shape, OBS))
    latent = jax.random.normal(latent_key, (*shape, ACTION))
    control = network.bind(obs, STEPS)
    outputs = jax.jit(lambda: [control(latent, jnp.asarray(step)) for step in range(STEPS)])()
    reference = jax.jit(unsplit)
    for step, output in enumerate(outputs):
        assert output.shape == (*shape, ACTION)
        expected = reference(network, obs, latent, step)
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
    assert jnp.abs(outputs[0] - outputs[1]).max() > 1e-2  # the step matters


def test_leading_axes_do_not_matter():
    network = random_control()
    obs_key, latent_key = jax.random.split(jax.random.key(2))
    obs = jax.random.normal(obs_key, (3, 4, OBS))
    latent = jax.random.normal(latent_key, (3, 4, ACTION))
    step = jnp.asarray(2)
    together = network.bind(obs, STEPS)(latent, step)
    for i in range(3):
        for j in range(4):
            alone = network.bind(obs[i, j], STEPS)(latent[i, j], step)
            np.testing.assert_allclose(together[i, j], alone, rtol=1e-4, atol=1e-5)


def test_starts_at_almost_nothing():
    network = ControlNetwork(OBS, ACTION, HIDDEN, 3, jax.random.key(3))
    obs_key, latent_key = jax.random.split(jax.random.key(4))
    obs = jax.random.normal(obs_key, (100, OBS))
    latent = 5.0 * jax.random.normal(latent_key, (100, ACTION))
    output = network.bind(obs, STEPS)(latent, jnp.asarray(0))
    assert 0.0 < jnp.abs(output).max() < 1e-6
    np.testing.assert_array_equal(network.output.kernel, jnp.full((HIDDEN, ACTION), 1e-8))


def test_output_is_clipped():
    network = random_control(scale=1e6)
    control = network.bind(jnp.ones((50, OBS)), STEPS)
    output = control(jax.random.normal(jax.random.key(5), (50, ACTION)), jnp.asarray(1))
    np.testing.assert_array_equal(jnp.abs(output), jnp.full((50, ACTION), 1e4))
