"""Where the time of an update goes: matrix products, the policy's chain, everything else.

    python benchmarks/profile_updates.py [ALGORITHM...] [--json FILE]

Updates at the paper's sizes for dog-run, on random data, under JAX's profiler. A policy's chain is
what runs in a loop inside the loop over updates; matrix products in it count as such.
"""

import argparse
import gzip
import json
import re
import tempfile
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp

from dime.algorithms.registry import ALGORITHMS
from dime.benchmark.benchmark import ENV, SPEC
from dime.training.presets import preset_settings, preset_training
from dime.types import Batch, Counters, Transition

NUM_UPDATES = 6  # a multiple of every policy delay
PRODUCTS = ("dot", "ynn_fusion", "onednn_fusion")
NO_LEAVES = ("while", "conditional", "call", "async")


def make_program(name):
    """Several updates in one program, and its arguments."""
    settings, training = preset_settings("paper", name, ENV), preset_training("paper", name, ENV)
    agent = ALGORITHMS[name].make(settings, SPEC)
    rows = training.batch_size * agent.batches_per_update
    keys = jax.random.split(jax.random.key(0), 4)
    obs = jax.random.normal(keys[0], (rows, SPEC.obs_dim))
    action = jax.random.uniform(keys[1], (rows, SPEC.action_dim), minval=-1.0)
    reward = jax.random.normal(keys[2], (rows,))
    batch = Batch(Transition(obs, action, reward, obs, reward > 9.0), jnp.arange(rows))

    def program(state, key):
        def update(state, number):
            at = Counters(20_001 + number, 20_001 + number)  # no reset, no entropy estimate
            return agent.update(state, batch, jax.random.fold_in(key, number), at)

        return jax.lax.scan(update, state, jnp.arange(NUM_UPDATES))

    state = jax.jit(agent.init)(keys[3])
    return jax.jit(program).lower(state, keys[3]).compile(), (state, keys[3])


def durations(run):
    """Microseconds by operation of the compiled program."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(run())
        (file,) = Path(folder).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    total = Counter()
    for event in events:
        operation = event.get("args", {}).get("hlo_op")
        if operation and event.get("ph") == "X" and not operation.startswith(NO_LEAVES):
            total[operation] += event["dur"]
    return total


def profile(name):
    """Shares of the time in matrix products, in the rest of the chain, and in all else."""
    compiled, arguments = make_program(name)
    jax.block_until_ready(compiled(*arguments))
    depth = {
        operation: place.count("/while/body")
        for operation, place in re.findall(
            r"%?([\w.-]+) = [^\n]*op_name=\"([^\"]*)\"", compiled.as_text()
        )
    }
    shares = Counter(products=0.0, chain=0.0, other=0.0)
    largest = Counter()
    total = durations(lambda: compiled(*arguments))
    for operation, duration in total.items():
        if operation.startswith(PRODUCTS):
            shares["products"] += duration
        elif depth.get(operation, 0) > 1:
            shares["chain"] += duration
        else:
            shares["other"] += duration
            largest[operation] += duration
    whole = sum(shares.values())
    return {part: share / whole for part, share in shares.items()} | {
        "largest_other": [[name, time / whole] for name, time in largest.most_common(5)]
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("algorithms", nargs="*", default=[])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = {}
    for name in options.algorithms or ALGORITHMS:
        results[name] = profile(name)
        print(name, {k: round(v, 3) for k, v in results[name].items() if k != "largest_other"})
        print("   ", [(name, round(share, 3)) for name, share in results[name]["largest_other"]])
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
