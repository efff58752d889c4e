"""The categorical projection keeps mass, and the mean where nothing is clipped.

Against a plain loop as well: Bellemare et al. 2017 (C51), algorithm 1, in float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dime.critics.heads import CategoricalHead, SoftBackup

BATCH, ATOMS, CRITICS = 3, 21, 2
HEAD = CategoricalHead(num_atoms=ATOMS, v_min=-10.0, v_max=30.0, entropy_weight=0.0)
SUPPORT = np.linspace(HEAD.v_min, HEAD.v_max, ATOMS)
project = jax.jit(HEAD.project)
target = jax.jit(HEAD.target)


def floats(low, high, *shape):
    elements = st.floats(low, high, width=32, allow_subnormal=False)
    return hnp.arrays(np.float32, shape, elements=elements)


def softmax(x):
    e = np.exp(x.astype(np.float64) - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def loop_projection(probs, positions):
    """Algorithm 1 of the C51 paper; the case that falls on an atom is not lost (l = u there)."""
    projected = np.zeros((len(probs), ATOMS))
    spacing = SUPPORT[1] - SUPPORT[0]
    for row in range(len(probs)):
        for atom in range(ATOMS):
            place = (min(max(positions[row, atom], SUPPORT[0]), SUPPORT[-1]) - SUPPORT[0]) / spacing
            lower, upper = int(np.floor(place)), int(np.ceil(place))
            if lower == upper:
                projected[row, lower] += probs[row, atom]
            else:
                projected[row, lower] += probs[row, atom] * (upper - place)
                projected[row, upper] += probs[row, atom] * (place - lower)
    return projected


@settings(deadline=None, max_examples=100)
@given(logits=floats(-8, 8, BATCH, ATOMS), positions=floats(-10, 30, BATCH, ATOMS))
def test_keeps_mass_and_mean_within_the_support(logits, positions):
    probs = softmax(logits)
    projected = np.asarray(project(jnp.asarray(probs, jnp.float32), positions), np.float64)
    assert projected.min() >= 0.0
    np.testing.assert_allclose(projected.sum(axis=-1), 1.0, atol=1e-5)
    mean = (probs * positions).sum(axis=-1)
    np.testing.assert_allclose(projected @ SUPPORT, mean, atol=2e-4)
    np.testing.assert_allclose(projected, loop_projection(probs, positions), atol=1e-5)


@settings(deadline=None, max_examples=100)
@given(
    logits=floats(-8, 8, CRITICS, BATCH, ATOMS),
    reward=floats(-20, 20, BATCH),
    discount=floats(0, 1, BATCH),
    entropy_cost=floats(-20, 20, BATCH),
)
def test_target_agrees_with_the_loop_and_keeps_mass_when_clipped(
    logits, reward, discount, entropy_cost
):
    probs = softmax(logits)
    moved = reward[:, None] + discount[:, None] * (SUPPORT - entropy_cost[:, None].astype(float))
    ours = np.asarray(target(jnp.asarray(logits), SoftBackup(reward, discount, entropy_cost)))
    np.testing.assert_allclose(ours.sum(axis=-1), 1.0, atol=1e-5)
    expected = np.mean([loop_projection(p, moved) for p in probs], axis=0)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@settings(deadline=None, max_examples=100)
@given(
    logits=floats(-8, 8, CRITICS, BATCH, ATOMS),
    reward=floats(-1, 10, BATCH),
    discount=floats(0, 0.5, BATCH),
    entropy_cost=floats(-4, 4, BATCH),
)
def test_target_moves_the_mean_by_the_soft_backup_where_nothing_is_clipped(
    logits, reward, discount, entropy_cost
):
    # DIME eq. 21: r + discount * (Q' - entropy cost). With these ranges every atom stays inside.
    ours = np.asarray(target(jnp.asarray(logits), SoftBackup(reward, discount, entropy_cost)))
    next_value = (softmax(logits) @ SUPPORT).mean(axis=0)
    expected = reward + discount * (next_value - entropy_cost)
    np.testing.assert_allclose(ours @ SUPPORT, expected, atol=2e-4)
