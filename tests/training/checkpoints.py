"""What a checkpoint consists of, small and made by hand: no algorithm, no environment."""

import json
from dataclasses import asdict

import numpy as np

from dime.training.checkpoint import RunState
from dime.training.checkpoint.reader import digest, sealed
from dime.training.config import from_table

OBS_DIM, ACTION_DIM = 3, 2
SPACES = {
    "name": "Stub-v0",
    "observation": [{"path": [], "shape": [OBS_DIM], "dtype": "float32"}],
    "action_shape": [ACTION_DIM],
    "action_dtype": "float32",
    "action_low": [-1.0, -1.0],
    "action_high": [1.0, 1.0],
}


def run_at(env_step, seeds=(0,), **extra):
    """What a checkpoint keeps of a run."""
    return from_table(RunState, json_at(env_step, seeds, **extra))


def json_at(env_step, seeds=(0,), **extra):
    """The content of a run.json."""
    position = {"number": 1, "episode_return": 0.5, "last_return": None, "last_length": None}
    return {
        "env_step": env_step,
        "updates": 2 * env_step,
        "seeds": list(seeds),
        "spaces": SPACES,
        "episodes": [position for _ in seeds],
        "last_evaluation_step": None,
        "record_bytes": {"metrics.jsonl": 0, "evaluations.jsonl": 0},
        "wall_time_s": 1.5,
        "last_evaluation": {str(seed): {"stochastic": -1.0} for seed in seeds},
        "failed_seeds": {},
        **extra,
    }


def state_at(env_step):
    """Arrays of several types, others at every step."""
    return {
        ".policy.bias": np.array([[1.5, -2.0]], np.float32) + env_step,
        ".count": np.array([env_step], np.int32),
        ".flag": np.array([env_step % 2 == 0]),
    }


def episodes_at(env_step, seeds=(0,)):
    """The episodes in progress, `env_step % 3` actions long."""
    arrays = {}
    for seed in seeds:
        arrays[f"{seed}/actions"] = np.full((env_step % 3, ACTION_DIM), 0.25, np.float32)
        arrays[f"{seed}/obs"] = np.full(OBS_DIM, env_step, np.float32)
        arrays[f"{seed}/next_action"] = np.zeros(ACTION_DIM, np.float32)
    return arrays


def rows_of(start, stop, seeds=(0,)):
    """Transitions [start, stop): the reward is the number."""
    shape = (len(seeds), stop - start)
    reward = np.broadcast_to(np.arange(start, stop, dtype=np.float32), shape).copy()
    return {
        "obs": np.ones((*shape, OBS_DIM), np.float32),
        "action": np.zeros((*shape, ACTION_DIM), np.float32),
        "reward": reward,
        "next_obs": np.ones((*shape, OBS_DIM), np.float32),
        "terminated": reward % 4 == 0,
    }


def save(folder, env_step, segments=None, **extra):
    """A checkpoint whose replay is one segment per five transitions, or the one given."""
    if segments is None:
        stops = range(5, env_step + 1, 5)
        segments = [
            folder.save_segment(rows_of(stop - 5, stop), stop - 5, stop, [0]) for stop in stops
        ]
    run = run_at(env_step, **extra)
    return folder.save(state_at(env_step), episodes_at(env_step), run, segments)


def sign_manifest(path, change=lambda body: None):
    """Writes a manifest anew with a right SHA-256 of its own, after `change(its content)`."""
    file = path / "manifest.json"
    body = json.loads(file.read_text())["content"]
    body = change(body) or body
    file.write_bytes(sealed(body))


def plant(folder, path, name, content):
    """Puts other content into a checkpoint's file, as a tool would that knows the format.

    `name` is one of the checkpoint's own files or of the replay's.
    """

    def note(body):
        known = body["files"].get(name)
        known = known or next(entry for entry in body["replay"] if entry["file"] == name)
        known |= asdict(digest(content))

    own = path / name
    (own if own.exists() else folder.replay_folder / name).write_bytes(content)
    sign_manifest(path, note)
