"""Files of golden numbers, recorded noise in place of random numbers, and what counts as equal."""

import os
from collections import deque
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dime.types import Batch, Counters, EnvSpec, Transition
from dime.updates.mixture_entropy import mean_mixture_entropy

FOLDER = Path(os.environ.get("DIME_GOLDEN_BASELINES_DIR", Path(__file__).parent))
FILES = sorted(FOLDER.glob("*.npz"))
KINDS = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
KINDS -= {"every_file"}


def kind_of(stem):
    """The longest kind that `stem` begins with, a whole number of words; None if there is none."""
    matching = [kind for kind in KINDS if f"{stem}_".startswith(f"{kind}_")]
    return max(matching, key=len, default=None)


class Golden:
    """One file's arrays by name."""

    def __init__(self, path):
        with np.load(path) as file:
            self.arrays = dict(file)

    def __getitem__(self, name):
        return jnp.asarray(self.arrays[name])

    def __contains__(self, name):
        """Whether there is an array of this name, or of a name that goes on with a slash."""
        return name in self.arrays or any(key.startswith(f"{name}/") for key in self.arrays)

    def under(self, prefix):
        """The arrays whose names begin with `prefix`, by the rest of their names."""
        found = {name for name in self.arrays if name.startswith(prefix)}
        return {name.removeprefix(prefix): self.arrays[name] for name in found}


@contextmanager
def served(**draws):
    """`jax.random.NAME` returns the next of the arrays `draws[NAME]`, in the wanted shape.

    Scans run in Python, so that each step has draws of its own. A draw that is not there is an
    error, and so is one that is left.
    """
    queues = {name: deque(draws.get(name, ())) for name in {"normal", "randint", "uniform", *draws}}

    def serve(name):
        def draw(key, shape=(), *args, **kwargs):
            assert queues[name], f"jax.random.{name} of shape {shape}: all draws are used up"
            return jnp.asarray(queues[name].popleft()).reshape(shape)

        return draw

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.lax, "scan", _scan)
        for name in queues:
            patch.setattr(jax.random, name, serve(name))
        yield
    left = {name: len(queue) for name, queue in queues.items() if queue}
    assert not left, f"draws that were not used: {left}"


def _scan(body, carry, xs, length=None):
    """What `jax.lax.scan` computes, step by step."""
    steps = length if xs is None else len(jax.tree.leaves(xs)[0])
    outputs = []
    for step in range(steps):
        carry, output = body(carry, jax.tree.map(lambda leaf: leaf[step], xs))  # noqa: B023
        outputs.append(output)
    return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)


def compiled(function, fuse=True):
    """`(draws, *arguments)` to what `function(*arguments)` returns where `draws` are served.

    It is traced once: of a `jax.lax.cond` both branches take their draws, also where the one that
    is not due throws them away. Without `fuse` numbers are rounded as without compilation, so as
    the files' were made; that takes twice as long.
    """

    def call(draws, *arguments):
        with served(**draws):
            return function(*arguments)

    off = "algsimp" if fuse else "algsimp,fusion"
    options = {"xla_backend_optimization_level": 0, "xla_disable_hlo_passes": off}
    return jax.jit(call, compiler_options=options)


def fill(template, leaves):
    """A module like `template` with these leaves, in the order in which JAX lists them."""
    shapes = [leaf.shape for leaf in jax.tree.leaves(template)]
    assert shapes == [leaf.shape for leaf in leaves]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def first_gradient(optimizer_state, b1=0.9):
    """The gradient of the first update, from what Adam keeps of it."""
    moment = optax.tree.get(optimizer_state, "mu")
    return jax.tree.map(lambda leaf: np.asarray(leaf) / np.float32(1.0 - b1), moment)


def assert_close(found, expected, tolerance, what=""):
    """Equal within `tolerance` times the largest entry of what is expected."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, what
    scale = np.abs(expected).max(initial=0.0) or 1.0
    error = np.abs(found - expected).max(initial=0.0) / scale
    assert error <= tolerance, f"{what}: off by {error:.1e} of the largest entry {scale:.3g}"


def assert_recorded(golden, name, found, tolerance):
    """The same, where the file has an array of this name."""
    if name in golden.arrays:
        assert_close(found, golden[name], tolerance, name)


def assert_trees_close(found, expected, tolerance, what=""):
    """The same for every leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(found)
    for (path, leaf), reference in zip(leaves, jax.tree.leaves(expected), strict=True):
        assert_close(leaf, reference, tolerance, what + jax.tree_util.keystr(path))


def assert_same_change(before, found, expected, tolerance=2e-5, what=""):
    """From `before`, the parameters moved as expected: the distance over the way's length.

    Not entry by entry: Adam's first step turns a gradient of rounding size into a whole step.
    """
    before, found, expected = (
        np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])
        for tree in (before, found, expected)
    )
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected - before)
    assert error <= tolerance, f"{what}: the change is off by {error:.1e}"


def spec_of(golden):
    """The environment's sizes, from the files' minibatches."""
    return EnvSpec(golden["batch/obs"].shape[-1], golden["batch/action"].shape[-1])


def batch_of(golden, index):
    """The minibatch of one update."""
    names = ("obs", "action", "reward", "next_obs", "terminated")
    arrays = (golden.arrays[f"batch/{name}"][index] for name in names)
    transition = Transition(*map(jnp.asarray, arrays))
    return Batch(transition, jnp.asarray(np.arange(len(transition.reward), dtype=np.int32)))


def zero_state(agent):
    """A state of the agent that is 0 throughout, as Adam begins; quicker than `agent.init`."""
    shapes = jax.eval_shape(agent.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), shapes)


class Training:
    """The states of an agent before and after each recorded update, and what each measured."""

    def __init__(self, agent, state, golden, draws_of, fuse=True):
        """`draws_of(index)` are the draws that update `index` is served."""
        self.states, self.metrics = [state], []
        update = compiled(agent.update, fuse)
        for index in range(golden["batch/obs"].shape[0]):
            batch, key = batch_of(golden, index), jax.random.key(index)
            counters = Counters(jnp.int32(index + 1), jnp.int32(index))
            state, metrics = update(draws_of(index), state, batch, key, counters)
            self.states.append(state)
            self.metrics.append(metrics)


def layers_of(golden, prefix):
    """Kernel and bias of `PREFIX0`, `PREFIX1` and so on."""
    count = sum(f"{prefix}{i}/kernel" in golden for i in range(len(golden.arrays)))
    return [(golden[f"{prefix}{i}/kernel"], golden[f"{prefix}{i}/bias"]) for i in range(count)]


def joined(*layers):
    """Several heads as one layer, side by side along the output axis."""
    return [jnp.asarray(np.concatenate(leaves, axis=-1)) for leaves in zip(*layers, strict=True)]


def stacked(*trees):
    """The critics' lists of leaves as one, with a leading axis of critics."""
    return [jnp.asarray(np.stack(leaves)) for leaves in zip(*trees, strict=True)]


def assert_forward(golden, found, tolerance=4e-6):
    """What was found equals the arrays `forward/NAME`."""
    for name, array in found.items():
        assert_recorded(golden, f"forward/{name}", array, tolerance)


_estimate = jax.jit(mean_mixture_entropy, static_argnums=1)


def assert_near_other_starts(actions, num_components, expected):
    """DACER's entropy of `actions` (actions, sets, dim), fitted from a start of its own.

    It must lie among ours from several starts: within three of their standard deviations, and 0.05
    nats per dimension.
    """
    keys = [jax.random.key(seed) for seed in range(8)]
    found = [float(_estimate(jnp.asarray(actions), num_components, key)) for key in keys]
    margin = 3.0 * np.std(found) + 0.05 * actions.shape[-1]
    assert abs(expected - np.mean(found)) <= margin, f"{expected}, where ours are {found}"
