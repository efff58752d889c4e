"""Files of golden numbers, recorded noise in place of random numbers, and what counts as equal."""

import inspect
import os
from collections import deque
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dime.algorithms.dacer.mixture_entropy import mean_mixture_entropy
from dime.types import Batch, Counters, EnvSpec, Transition

OWN_FOLDER = Path(__file__).parent
FOLDER = Path(os.environ.get("DIME_GOLDEN_BASELINES_DIR") or OWN_FOLDER)
FILES = sorted(FOLDER.glob("*.npz"))
KINDS = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
KINDS -= {"every_file"}


def kind_of(stem):
    """The longest kind that `stem` begins with, a whole number of words; None if there is none."""
    matching = [kind for kind in KINDS if f"{stem}_".startswith(f"{kind}_")]
    return max(matching, key=len, default=None)


class _Arrays(dict[str, np.ndarray]):
    """Arrays by name. Those that `[]` has returned count as read; `get` is for settings."""

    def __init__(self, arrays):
        super().__init__(arrays)
        self.read = set()

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)


class Golden:
    """One file's arrays by name, and the names of the tests that it was given to."""

    def __init__(self, path):
        with np.load(path) as file:
            self.arrays = _Arrays(file)
        self.stem, self.tests = path.stem, set()

    def __getitem__(self, name):
        return jnp.asarray(self.arrays[name])

    def __contains__(self, name):
        """Whether there is an array of this name, or of a name that goes on with a slash."""
        return name in self.arrays or any(key.startswith(f"{name}/") for key in self.arrays)

    def unread(self, allowed=()):
        """The names of the arrays that nobody read, without those of the `allowed` patterns."""
        names = self.arrays.keys() - self.arrays.read
        return sorted(name for name in names if not any(fnmatch(name, each) for each in allowed))


def every_array_is_read(golden, request):
    """A module's last test: a check that looks for a wrong name compares nothing, and passes.

    It runs those tests of the module that the file was not given to yet. `NOT_COMPARED` of the
    module says of what names arrays may stay unread, and why. Files that are not ours may hold
    further notes.
    """
    for name, test in vars(request.module).items():
        if name.startswith("test_") and callable(test) and name not in golden.tests:
            arguments = inspect.signature(test).parameters.values()
            needed = [each.name for each in arguments if each.default is each.empty]
            test(**{fixture: request.getfixturevalue(fixture) for fixture in needed})
    unread = golden.unread(getattr(request.module, "NOT_COMPARED", {}))
    ours = (OWN_FOLDER / f"{golden.stem}.npz").exists()
    assert not (ours and unread), f"arrays that no test reads: {', '.join(unread)}"


def widened(tree):
    """In double precision what is in single precision; without x64 JAX takes it as it was."""
    return jax.tree.map(lambda x: np.asarray(x, float) if x.dtype == np.float32 else x, tree)


class _Draws:
    """Recorded draws in the order of their use, in place of those of `jax.random`."""

    def __init__(self, draws):
        self.queues = {
            name: deque(draws.get(name, ())) for name in ("normal", "randint", "uniform")
        }

    @contextmanager
    def served(self):
        """A draw that is not there is an error, and so is one that is left."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax.lax, "scan", self.scan(jax.lax.scan))
            for name in self.queues:
                patch.setattr(jax.random, name, partial(self.draw, name))
            yield
        left = {name: len(queue) for name, queue in self.queues.items() if queue}
        assert not left, f"draws that were not used: {left}"

    def draw(self, name, key, shape=(), *args, **kwargs):
        """In place of `jax.random.NAME`."""
        assert self.queues.get(name), f"jax.random.{name} of shape {shape}: all draws are used up"
        return jnp.asarray(self.queues[name].popleft()).reshape(shape)

    def scan(self, original):
        """In place of `jax.lax.scan`: a body that draws finds its draw among its inputs."""

        def scan(body, start, xs=None, length=None):
            length = len(jax.tree.leaves(xs)[0]) if length is None else length
            outside, draws = self.queues, False

            def step(carry, inputs):
                nonlocal draws
                x, draw = inputs
                self.queues = {"normal": deque([draw])}
                try:
                    result = body(carry, x)
                    draws = not self.queues["normal"]
                finally:
                    self.queues = outside
                return result

            following = outside["normal"]
            first = jax.tree.map(lambda leaf: leaf[0], xs)
            jax.eval_shape(step, start, (first, following[0] if following else None))
            if not draws:
                return original(body, start, xs, length)
            assert length <= len(following), f"{length} steps draw, {len(following)} draws are left"
            steps = jnp.stack([following.popleft() for _ in range(length)])
            return original(step, start, (xs, steps), length)

        return scan


def compiled(function, fuse=True):
    """`(draws, *arguments)` to what `function(*arguments)` returns where `draws` are served.

    They are `{"normal": arrays, "randint": arrays, "uniform": arrays}`. The function is traced
    once: of a `jax.lax.cond` both branches take their draws, also where the one that is not due
    throws them away. Without `fuse` numbers are rounded as without compilation, so as the files'
    were made; that takes twice as long.
    """

    def call(draws, *arguments):
        with _Draws(draws).served():
            return function(*arguments)

    off = "algsimp" if fuse else "algsimp,fusion"
    options = {"xla_backend_optimization_level": 0, "xla_disable_hlo_passes": off}
    run = jax.jit(call, compiler_options=options)
    return lambda *arguments: run(*widened(arguments))


@contextmanager
def _noted(owner, name):
    """A list of what `owner.name` returns, call by call."""
    returned, original = [], getattr(owner, name)

    def note(*args, **kwargs):
        returned.append(original(*args, **kwargs))
        return returned[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, note)
        yield returned


class Update(NamedTuple):
    """One update and the draws that it is served."""

    batch: Batch
    counters: Counters
    draws: dict[str, list]


class Training:
    """The states before and after each update, what each measured, and what was noted inside."""

    def __init__(self, agent, start, updates, fuse=True, **notes):
        """`notes` are pairs of an owner and the name of a function there: its last result."""
        self.states, self.metrics, self.noted = [start], [], {name: [] for name in notes}

        def update(*arguments):
            with ExitStack() as stack:
                lists = {name: stack.enter_context(_noted(*pair)) for name, pair in notes.items()}
                state, metrics = agent.update(*arguments)
            return state, metrics, {name: returned[-1] for name, returned in lists.items()}

        run = compiled(update, fuse)
        for index, (batch, counters, draws) in enumerate(updates):
            key = jax.random.key(index)
            state, metrics, results = run(draws, self.states[-1], batch, key, counters)
            self.states.append(state)
            self.metrics.append(metrics)
            for name, result in results.items():
                self.noted[name].append(result)


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


def assert_merged(golden, name, merge, found, tolerance):
    """The same of an array for each of two critics, whose numbers `{}` stands for in `name`."""
    names = [name.format(number) for number in (1, 2)]
    if names[0] in golden:
        assert_close(found, merge([golden.arrays[each] for each in names]), tolerance, name)


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


def batch_from(columns, rows):
    """A minibatch of arrays in the order of a transition's, and of their rows in the replay."""
    return Batch(Transition(*map(jnp.asarray, columns)), jnp.asarray(rows, jnp.int32))


def counters_of(env_step, update):
    return Counters(jnp.asarray(env_step, jnp.int32), jnp.asarray(update, jnp.int32))


def updates_of(golden, draws_of):
    """The recorded updates; `draws_of(index)` are the draws of one."""
    names = ("obs", "action", "reward", "next_obs", "terminated")
    columns = [golden.arrays[f"batch/{name}"] for name in names]
    for index, batch in enumerate(zip(*columns, strict=True)):
        rows = np.arange(len(batch[0]))
        yield Update(batch_from(batch, rows), counters_of(index + 1, index), draws_of(index))


def zero_state(agent):
    """A state of the agent that is 0 throughout, as Adam begins; quicker than `agent.init`."""
    shapes = jax.eval_shape(agent.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), shapes)


def layers_of(golden, prefix):
    """Kernel and bias of `PREFIX0`, `PREFIX1` and so on."""
    count = sum(f"{prefix}{i}/kernel" in golden for i in range(99))
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
