"""DACER's estimate of an entropy: the mixtures of scikit-learn, and the released function's mean.

Names are `SET/actions` and so on, where SET says which kind of actions and how many dimensions.
"""

import jax
import jax.numpy as jnp
import pytest

from dime.algorithms.dacer import mixture_entropy as module
from dime.algorithms.dacer.mixture_entropy import fit_mixture, mixture_entropy

from .golden import assert_close, assert_near_other_starts, every_array_is_read

pytestmark = pytest.mark.promise("R15")
NOT_COMPARED = {"*steps": "how many steps of EM were made there"}
NUM_COMPONENTS = 3
FITTED = {"weights": 1e-4, "means": 2e-5, "covariances": 2e-5, "entropy": 2e-5}


def sets_of(golden):
    """What the names of each set's arrays begin with."""
    prefixes = [name.removesuffix("actions") for name in golden.arrays if name.endswith("actions")]
    assert prefixes, "there is no array SET/actions"
    return prefixes


def test_entropy_from_own_start(golden):
    for prefix in sets_of(golden):
        if f"{prefix}entropy" in golden:
            actions = golden.arrays[f"{prefix}actions"].swapaxes(0, 1)
            expected = golden.arrays[f"{prefix}entropy"].mean()
            assert_near_other_starts(actions, NUM_COMPONENTS, expected)


def from_labels(actions, labels):
    """What EM makes of each set of actions, from these labels in place of a clustering."""

    def fit(points, labels):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_cluster", lambda points, num_clusters, key: labels)
            mixture = fit_mixture(points, NUM_COMPONENTS, jax.random.key(0))
        return mixture, mixture_entropy(mixture)

    return jax.jit(jax.vmap(fit))(jnp.asarray(actions), jnp.asarray(labels, jnp.int32))


def test_mixture_from_given_labels(golden):
    for prefix in sets_of(golden):
        if f"{prefix}labels" not in golden:
            continue
        mixture, entropy = from_labels(golden[f"{prefix}actions"], golden[f"{prefix}labels"])
        found = mixture._asdict() | {"entropy": entropy}
        for name in set(golden.arrays) - {f"{prefix}entropy"}:
            what = name.replace("_", "/").rpartition("/")[2]
            if name.startswith(prefix) and what in found:
                assert_close(found[what], golden[name], FITTED[what], name)


test_every_array_is_read = every_array_is_read
