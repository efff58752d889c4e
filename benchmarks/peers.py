"""CrossQ here and in the SBX package: env steps per second.

    make bench-peers        (in a separate virtual environment: SBX brings PyTorch)

Both train on the same Gymnasium task at the same sizes, in separate processes, in turn. The timing
starts after a warm-up, when everything is compiled; nothing is evaluated or saved meanwhile.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HIDDEN_DIM = {"policy": 256, "critic": 1024}  # SBX's own defaults for CrossQ, two layers each
LEARNING_STARTS = 100
BATCH_SIZE = 256
POLICY_DELAY = 3
LEARNING_RATE = 1e-3
LOG_EVERY = 100


def time_dime(task: str, warm_up: int, env_steps: int) -> float:
    """Seconds of `env_steps` env steps of this package's whole training loop."""
    import dime

    seen: dict[int, float] = {}

    def note(record):
        if "mode" not in record:  # metrics, no evaluation
            seen[record["env_step"]] = record["wall_time_s"]

    length = warm_up + env_steps + LOG_EVERY
    network = {"num_hidden_layers": 2, "learning_rate": LEARNING_RATE}
    with tempfile.TemporaryDirectory() as folder:
        dime.train(
            task,
            "crossq",
            run_dir=Path(folder) / "run",
            progress=False,
            callback=note,
            num_env_steps=length,
            evaluate_every=length,
            checkpoint_every=length,
            num_random_steps=LEARNING_STARTS,
            updates_per_env_step=1,
            batch_size=BATCH_SIZE,
            policy_delay=POLICY_DELAY,
            policy={"hidden_dim": HIDDEN_DIM["policy"], **network},
            critic={"hidden_dim": HIDDEN_DIM["critic"], **network},
            log_every=LOG_EVERY,
            num_evaluation_episodes=1,
            evaluation_modes=["deterministic"],
            tensorboard=False,
        )
    return seen[warm_up + env_steps] - seen[warm_up]


def time_sbx(task: str, warm_up: int, env_steps: int) -> float:
    """Seconds of `env_steps` env steps of SBX's."""
    import sbx
    from stable_baselines3.common.callbacks import BaseCallback

    seen: dict[int, float] = {}

    class Note(BaseCallback):
        def _on_step(self) -> bool:
            seen[self.num_timesteps] = time.perf_counter()
            return True

    sizes = {"pi": [HIDDEN_DIM["policy"]] * 2, "qf": [HIDDEN_DIM["critic"]] * 2}
    learner = sbx.CrossQ(
        "MlpPolicy",
        task,
        seed=0,
        learning_rate=LEARNING_RATE,
        learning_starts=LEARNING_STARTS,
        batch_size=BATCH_SIZE,
        policy_delay=POLICY_DELAY,
        policy_kwargs={"net_arch": sizes},
    )
    learner.learn(warm_up + env_steps, callback=Note())
    return seen[warm_up + env_steps] - seen[warm_up]


PACKAGES = {"dime": time_dime, "sbx": time_sbx}


def compare(options: argparse.Namespace) -> dict[str, object]:
    """Env steps per second of each, and their ratio by round."""
    rates: dict[str, list[float]] = {name: [] for name in PACKAGES}
    for number in range(options.rounds):
        for name in sorted(rates, reverse=number % 2 == 1):
            command = [sys.executable, __file__, "--only", name, "--task", options.task]
            command += ["--warm-up", str(options.warm_up), "--env-steps", str(options.env_steps)]
            answer = subprocess.run(command, capture_output=True, text=True, check=False)
            if answer.returncode != 0:
                raise SystemExit(f"{name} ended with an error:\n{answer.stderr}")
            rates[name].append(options.env_steps / float(answer.stdout.split()[-1]))
            print(
                f"round {number + 1}: {name} {rates[name][-1]:.1f} env steps per second", flush=True
            )
    ratios = [ours / theirs for ours, theirs in zip(rates["dime"], rates["sbx"], strict=True)]
    return {
        "task": options.task,
        "env_steps": options.env_steps,
        "env_steps_per_s": rates,
        "ratio": {
            "median": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
        },
    }


def main(arguments: list[str] | None = None) -> None:
    """Compares, or with `--only` times one of them and prints its seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="HalfCheetah-v5")
    parser.add_argument("--warm-up", type=int, default=500)
    parser.add_argument("--env-steps", type=int, default=2000, help="timed, after the warm-up")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=PACKAGES)
    options = parser.parse_args(arguments)
    if options.warm_up % LOG_EVERY or options.env_steps % LOG_EVERY:
        parser.error(f"--warm-up and --env-steps must be multiples of {LOG_EVERY}")
    if options.only:
        print(PACKAGES[options.only](options.task, options.warm_up, options.env_steps))
        return
    figures = compare(options)
    print("ratio of env steps per second, dime to sbx:", figures["ratio"])
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
