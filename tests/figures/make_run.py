"""Run directories with made-up evaluations."""

import json

import numpy as np


def make_run(
    folder,
    env="dm_control/walker-run",
    algorithm="dime",
    seeds=(0, 1, 2),
    steps=(0, 500, 1000, 1500),
    *,
    modes=("stochastic",),
    num_episodes=5,
    success=False,
    offset=0.0,
    settings=None,
):
    """Returns grow with the step and differ between seeds, modes and episodes."""
    folder.mkdir(parents=True)
    config = {
        "format_version": 1,
        "env": env,
        "env_kwargs": {},
        "algorithm": algorithm,
        "preset": "laptop",
        "training": {"seeds": list(seeds), "evaluate_every": 500},
        "settings": settings or {"discount": 0.99},
    }
    (folder / "config.json").write_text(json.dumps(config))
    with (folder / "evaluations.jsonl").open("w") as file:
        for step in steps:
            for mode in modes:
                for seed in seeds:
                    record = evaluation(step, seed, mode, num_episodes, offset)
                    if success:
                        record["success_any"] = [True] * num_episodes
                        record["success_last"] = [i <= seed for i in range(num_episodes)]
                    file.write(json.dumps(record) + "\n")
    return folder


def evaluation(step, seed, mode, num_episodes=5, offset=0.0):
    level = offset + 700 * (1 - np.exp(-step / (800 + 250 * seed))) + 30 * (mode != "stochastic")
    noise = np.random.default_rng([step, seed]).normal(0, 15, num_episodes)
    return {
        "env_step": step,
        "updates": 2 * step,
        "wall_time_s": step / 10,
        "seed": seed,
        "mode": mode,
        "returns": (level + noise).tolist(),
        "lengths": [1000] * num_episodes,
        "success_any": None,
        "success_last": None,
        "episode_seeds": list(range(num_episodes)),
    }
