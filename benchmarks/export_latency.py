"""The latency of one action of an exported policy, by format and mode.

    python benchmarks/export_latency.py [--sizes laptop paper] [--json FILE]

Untrained DIME policies of two sizes: the preset `laptop` with cartpole-swingup's 5 observation and
1 action dimensions, and the paper's for dog-run (223 and 38). Each is exported with a batch of one
and called through its own runner, so the time includes checking and flattening the observation.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from dime.algorithms.registry import ALGORITHMS
from dime.deploy.export import write_export
from dime.deploy.policy import Policy, Restored
from dime.deploy.run_policy import Policy as Exported
from dime.envs.spaces import Leaf, Spaces
from dime.training.checkpoint import Checkpoint
from dime.training.config import RunConfig
from dime.training.presets import preset_settings, preset_training
from dime.types import EnvSpec

SIZES = {"laptop": ("dm_control/cartpole-swingup", 5, 1), "paper": ("dm_control/dog-run", 223, 38)}
NUM_CALLS = 300
NUM_WARM_UP = 20


def restored_of(preset, folder):
    """An untrained DIME agent; `folder` serves as its checkpoint's."""
    env, obs_dim, action_dim = SIZES[preset]
    settings = preset_settings(preset, "dime", env)
    agent = ALGORITHMS["dime"].make(settings, EnvSpec(obs_dim, action_dim))
    config = RunConfig(
        env=env,
        env_kwargs={},
        algorithm="dime",
        preset=preset,
        training=preset_training(preset, "dime", env),
        settings=settings,
    )
    spaces = Spaces(
        name=env,
        observation=(Leaf((), (obs_dim,), "float32"),),
        action_shape=(action_dim,),
        action_dtype="float32",
        action_low=(-1.0,) * action_dim,
        action_high=(1.0,) * action_dim,
    )
    checkpoint = Checkpoint(folder, {}, {}, {"env_step": 0, "updates": 0}, [], [], "")
    state = jax.tree.map(lambda leaf: leaf[None], jax.jit(agent.init)(jax.random.key(0)))
    return Restored(config, agent, spaces, [0], state, checkpoint)


def timed(policy, obs_dim):
    """Median and 99th percentile in ms."""
    observations = np.random.default_rng(0).normal(size=(NUM_CALLS + NUM_WARM_UP, 1, obs_dim))
    times = []
    for obs in observations.astype(np.float32):
        start = time.perf_counter()
        policy(obs)
        times.append(1e3 * (time.perf_counter() - start))
    kept = times[NUM_WARM_UP:]
    return {
        "median_ms": round(float(np.median(kept)), 3),
        "p99_ms": round(float(np.quantile(kept, 0.99)), 3),
    }


def measure(preset, mode):
    """Figures of one size and mode by way of acting."""
    figures = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        restored = restored_of(preset, folder)
        obs_dim = restored.spaces.obs_dim
        policy = Policy(restored, 0, mode, 0)
        figures["load_policy"] = timed(policy, obs_dim)
        for format in ("stablehlo", "onnx"):
            write_export(policy, folder / format, format, 1, None)
            figures[format] = timed(Exported(folder / format), obs_dim)
            sizes = [file.stat().st_size for file in (folder / format).glob("policy*.*")]
            figures[format]["bytes"] = max(sizes)
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures = {"load_average": os.getloadavg()[0], "cores": os.cpu_count(), "actions": {}}
    for preset in arguments.sizes:
        for mode in ALGORITHMS["dime"].modes:
            found = measure(preset, mode)
            figures["actions"][f"{preset}/{mode}"] = found
            for format, times in found.items():
                print(f"{preset} {mode} {format}: {times}", flush=True)
    figures["load_average_after"] = os.getloadavg()[0]
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
