"""Arrays and modules with numbers from NumPy, so that nothing is compiled to make them."""

import jax
import jax.numpy as jnp
import numpy as np


def normal(seed, *shape):
    """Standard normal."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def uniform(seed, *shape):
    """In [-1, 1]."""
    return jnp.asarray(np.random.default_rng(seed).uniform(-1.0, 1.0, shape), jnp.float32)


def drawn(make, seed=0, std=0.5):
    """What `make(key)` makes, every leaf drawn from N(0, std^2) and so away from its start."""
    leaves, structure = jax.tree.flatten(jax.eval_shape(make, jax.random.key(0)))
    new = [std * normal((seed, number), *leaf.shape) for number, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, new)
