"""The cost of checkpoints at dog-run's sizes with a full replay: bytes, pauses, restoring.

python benchmarks/checkpoint_cost.py --folder /tmp/checkpoints \
    --json benchmarks/results/checkpoint-cpu-2-cores.json

The folder must be on a local disk with room for the replay (1M transitions: 2 GB).
"""

import argparse
import os
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dime.algorithms.registry import ALGORITHMS
from dime.envs.registry import make
from dime.training.checkpoint import EpisodePosition, RunState, to_arrays
from dime.training.checkpoint.reader import load_replay
from dime.training.checkpoint.writer import CheckpointFolder, ReplaySaver
from dime.training.config import TrainingConfig
from dime.training.host.programs import initialise, seed_keys
from dime.training.presets import preset_settings
from dime.training.records import write_json
from dime.training.replay import Replay
from dime.types import EnvSpec

ENV, SPEC = "dm_control/dog-run", EnvSpec(223, 38)
INTERVAL = 10_000


def random_replay(capacity: int) -> Replay:
    """A full ring of one seed."""
    rng = np.random.default_rng(0)

    def numbers(*shape):
        return jnp.asarray(rng.standard_normal((1, capacity, *shape), np.float32))

    return Replay(
        obs=numbers(SPEC.obs_dim),
        action=numbers(SPEC.action_dim),
        reward=numbers(),
        next_obs=numbers(SPEC.obs_dim),
        terminated=jnp.zeros((1, capacity), bool),
    )


def sizes(folder: Path) -> dict[Path, int]:
    """Bytes of every file below."""
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def measure(folder: Path, capacity: int) -> dict:
    """Fills a replay, saves it piece by piece, then times one more checkpoint and a restore."""
    checkpoints = CheckpointFolder(folder)
    agent = ALGORITHMS["dime"].make(preset_settings("paper", "dime", ENV), SPEC)
    state = jax.jit(partial(initialise, agent))(seed_keys((0,)))
    replay = random_replay(capacity)
    saver = ReplaySaver(checkpoints)
    episodes = {
        "0/actions": np.zeros((1000, SPEC.action_dim), np.float32),
        "0/obs": np.zeros(SPEC.obs_dim, np.float32),
        "0/next_action": np.zeros(SPEC.action_dim, np.float32),
    }
    run = RunState(
        env_step=0,
        updates=0,
        seeds=[0],
        spaces=make(ENV).spaces,
        episodes=[EpisodePosition(1, 0.0, None, None)],
        last_evaluation_step=0,
        record_bytes={"metrics.jsonl": 0, "evaluations.jsonl": 0},
        wall_time_s=0.0,
        last_evaluation={},
        failed_seeds={},
    )

    def save(env_step: int) -> float:
        began = time.perf_counter()
        segments = saver.save(replay, env_step, [0])
        checkpoints.save(to_arrays(state), episodes, replace(run, env_step=env_step), segments)
        return time.perf_counter() - began

    for env_step in range(INTERVAL, capacity - INTERVAL + 1, INTERVAL):
        save(env_step)
    before = sizes(folder)
    pauses = [save(capacity)]
    written = sum(size for path, size in sizes(folder).items() if path not in before)
    # The ring is full: from here on the oldest transitions are written over.
    pauses += [save(capacity + k * INTERVAL) for k in range(1, 5)]
    began = time.perf_counter()
    loaded, _ = checkpoints.load_newest()
    restored = load_replay(loaded.replay_files, [0], TrainingConfig(replay_capacity=capacity), SPEC)
    jax.block_until_ready(restored)
    restore_s = time.perf_counter() - began
    state_bytes = sum(array.nbytes for array in to_arrays(state).values())
    new_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(replay)) * INTERVAL // capacity
    return {
        "transitions": capacity,
        "state_mb": state_bytes / 1e6,
        "new_transitions_mb": new_bytes / 1e6,
        "written_mb": written / 1e6,
        "written_to_needed": written / (state_bytes + new_bytes),
        "pause_s": pauses,
        "restore_s": restore_s,
        "cores": os.cpu_count(),
    }


def main() -> None:
    """Measures, prints, and removes what was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    try:
        figures = measure(options.folder, options.transitions)
    finally:
        shutil.rmtree(options.folder)
    for name, value in figures.items():
        print(f"{name}: {value}")
    if options.json:
        write_json(options.json, figures)


if __name__ == "__main__":
    main()
