"""All measurements for a GPU, the most important first, in nine minutes.

python benchmarks/gpu_plan.py --out FOLDER

Each step is a separate process with a time limit. FOLDER/plan.json is written after each; a step
that fails or is stopped does not affect the others, and unused time goes to those after it. Only
what the steps import must be installed: the package is found next to this file. It needs no
network and no screen. `--tiny` tries it all on a CPU.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOTAL_S = 540
PACKAGES = """jax jaxlib equinox optax numpy gymnasium mujoco mujoco-mjx dm-control playground tyro
rich safetensors filelock tensorboardX""".split()
# IQM of the returns at 100 000 env steps, as the authors of FlashSAC and XQC published them.
PUBLISHED = {"FlashSAC": 248, "XQC": 212, "DIME": 74}
NUM_UPDATES = 200
TRAINING_SHARE = 0.7  # of a real run's time; the rest is for its checkpoint and evaluation
TINY = {
    "algorithm": "tests.training.toy:TOY",
    "batch_size": 8,
    "log_every": 10,
    "num_env_steps": 60,
    "num_random_steps": 20,
}
# Not imported above: JAX, so that this process takes no memory of the device.


def plan(tiny: bool) -> list[tuple[str, float, list[str], str]]:
    """Steps: name, share of the time, what Python runs, XLA's flags.

    {json} and {limit} are filled in.
    """
    own = ["benchmarks/gpu_plan.py", *(["--tiny"] if tiny else []), "--json", "{json}"]
    own += ["--limit", "{limit}", "--step"]
    golden = ["-m", "tests.golden.precision", "--json", "{json}"]
    steps = ["benchmarks/gpu.py", "--latencies-ms", "--json", "{json}"]
    if tiny:
        golden += ["--files", "golden_N4", "--precisions", "float32"]
        steps += ["--tiny", "--seeds", "1", "--steps", "2", "--env-steps", "3"]
    else:
        steps += ["--seeds", "1", "10", "--steps", "16", "8", "--env-steps", "300"]
    deterministic = "--xla_gpu_deterministic_ops=true"
    return [
        ("device", 15, [*own, "device"], ""),
        ("golden", 30, golden, ""),
        ("repeat", 15, [*own, "repeat"], ""),
        ("repeat-deterministic", 15, [*own, "repeat"], deterministic),
        ("env-steps-float32", 75, [*steps, "--precision", "float32"], ""),
        ("env-steps-tensorfloat32", 75, [*steps, "--precision", "tensorfloat32"], ""),
        ("real-run", 240, [*own, "real_run"], ""),
        ("playground", 60, [*own, "playground"], ""),
    ]


def device(tiny: bool, limit_s: float, file: Path) -> None:
    """What is there, and its rate of large matrix products."""
    import gpu
    import jax

    first = jax.devices()[0]
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    found = {
        "device": first.device_kind,
        "platform": first.client.platform_version,
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "versions": versions,
        "product_gflops": {},
    }
    for precision in gpu.PRECISIONS:
        found["product_gflops"][precision] = gpu.product_gflops(precision, tiny)
        write(file, found)


def repeat(tiny: bool, limit_s: float, file: Path) -> None:
    """Whether two runs of 200 updates end in the same bits; the digest is for other processes."""
    import hashlib

    import gpu
    import jax
    import numpy as np

    if tiny:
        from tests.training.toy import TOY

        from dime.benchmark.timing import UpdateTimer
        from dime.training.config import TrainingConfig

        spec = gpu.SPECS["humanoid-run"]
        timer = UpdateTimer(TOY.make(TOY.config(), spec), TrainingConfig(batch_size=8), spec)
    else:
        options = argparse.Namespace(task="humanoid-run", precision="float32", tiny=False)
        timer = gpu.make_timer(options, 1, 16, {"critic": {"hidden_dim": 256}})
    start = jax.device_get((timer.state, timer.replay)), timer.env_step
    ends = []
    for _ in range(2):
        (timer.state, timer.replay), timer.env_step = jax.device_put(start[0]), start[1]
        for _ in range(NUM_UPDATES // timer.config.updates_per_env_step):
            timer.advance()
        ends.append([np.asarray(leaf) for leaf in jax.tree.leaves(timer.state)])
    pairs = list(zip(*ends, strict=True))
    digest = hashlib.sha256(b"".join(leaf.tobytes() for leaf in ends[0])).hexdigest()
    differ = [float(np.max(np.abs(a - b, dtype=float))) for a, b in pairs if (a != b).any()]
    write(
        file,
        {
            "updates": NUM_UPDATES,
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            "equal": all(a.tobytes() == b.tobytes() for a, b in pairs),
            "largest_difference": max(differ, default=0.0),
            "digest": digest,
        },
    )


def real_run(tiny: bool, limit_s: float, file: Path) -> None:
    """Ten seeds on dog-walk at the paper's sizes while there is time, then an evaluation."""
    import tempfile

    import numpy as np

    import dime

    options = {"seeds": tuple(range(10)), "num_env_steps": 100_000, "log_every": 100}
    if tiny:
        options = TINY | {"seeds": (0, 1)}
    with tempfile.TemporaryDirectory() as folder:
        found = train(
            "dime/MultiGoal-v0" if tiny else "dm_control/dog-walk",
            TRAINING_SHARE * limit_s,
            folder,
            env_process=True,
            num_evaluation_episodes=1,  # at a time: each takes a process to be started
            **options,
        )
        write(file, found)
        episodes = 1 if tiny else 3
        records = dime.evaluate(f"{folder}/run", "deterministic", episodes=episodes)
    means = [float(np.mean(record["returns"])) for record in records]
    found |= {
        "mode": "deterministic",
        "episodes": episodes,
        "returns": means,
        "iqm": float(dime.statistics.iqm(np.array(means)[:, None])),
        "published_iqm_at_100k": PUBLISHED,
    }
    write(file, found)


def playground(tiny: bool, limit_s: float, file: Path) -> None:
    """64 environments in the learner's program: env steps per second, and memory in use."""
    import tempfile

    env, together = "playground/CheetahRun", 64
    options = {"num_env_steps": 640_000, "num_random_steps": 640, "log_every": 448}
    options |= {"env_kwargs": {"impl": "jax"}}
    if tiny:
        from tests.training.jax_walk import jax_walk

        env, together, options = jax_walk, 2, TINY
    with tempfile.TemporaryDirectory() as folder:
        write(file, train(env, 0.9 * limit_s, folder, envs_per_seed=together, **options))


def train(env, seconds: float, folder: str, **options) -> dict:
    """A run without evaluations that ends after so many seconds; how far it came, and how fast."""
    import jax

    import dime

    until = time.monotonic() + seconds
    rates = []

    def stop(record):
        rates.append(record["env_steps_per_s"])  # no evaluation is among the records
        return time.monotonic() > until

    result = dime.train(
        env,
        run_dir=f"{folder}/run",
        callback=stop,
        evaluation_modes=(),
        checkpoint_every=64 * 10**6,
        tensorboard=False,
        **options,
    )
    memory = jax.devices()[0].memory_stats() or {}
    return {
        "env": env if isinstance(env, str) else env.__name__,
        "seeds": len(options.get("seeds", (0,))),
        "state": result.state,
        "env_steps_of_each_seed": result.env_step,
        "env_steps_per_s": rates[-1] if rates else None,
        "peak_memory_mb": memory.get("peak_bytes_in_use", 0) / 1e6 or None,
    }


STEPS = {step.__name__: step for step in (device, repeat, real_run, playground)}


def write(file: Path, content: dict) -> None:
    """In one go: the process may be killed at any time."""
    new = file.with_suffix(".new")
    new.write_text(json.dumps(content, indent=1) + "\n")
    new.replace(file)


def run_step(words: list[str], flags: str, limit_s: float, log: Path) -> str:
    """Runs Python with these words, for so long at most; says how it ended."""
    places = [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))}
    environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return f"stopped at its limit of {limit_s:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return "done" if status == 0 else f"failed with exit status {status}"


def carry_out(folder: Path, total_s: float, tiny: bool) -> dict:
    """Runs every step and writes what is known after each."""
    steps = plan(tiny)
    results: dict = {"tiny": tiny, "total_s": total_s, "steps": {}}
    end = time.monotonic() + total_s
    for place, (name, share, words, flags) in enumerate(steps):
        left = end - time.monotonic()
        limit_s = left * share / sum(step[1] for step in steps[place:])
        file, log = folder / f"{name}.json", folder / f"{name}.log"
        file.unlink(missing_ok=True)
        began = time.monotonic()
        filled = [word.format(json=file, limit=limit_s) for word in words]
        ended = run_step(filled, flags, limit_s, log)
        try:
            found = json.loads(file.read_text())
        except (FileNotFoundError, ValueError):  # none, or cut off
            found = None
        figures = {"ended": ended, "seconds": time.monotonic() - began, "found": found}
        if ended != "done":
            figures["last_words"] = log.read_text(errors="replace")[-2000:]
        results["steps"][name] = figures
        write(folder / "plan.json", results)
        print(f"{name}: {ended} after {figures['seconds']:.0f} s", flush=True)
    return results


def main(arguments: list[str] | None = None) -> dict | None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT"), help="folder of results")
    parser.add_argument("--total", type=float, default=TOTAL_S, help="seconds for all of it")
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that it works")
    parser.add_argument("--step", choices=STEPS, help="this one alone, in this process")
    parser.add_argument("--limit", type=float, help="its time in seconds")
    parser.add_argument("--json", type=Path, help="its file")
    options = parser.parse_args(arguments)
    if options.step and None in (options.limit, options.json):
        parser.error("--step needs --limit and --json")
    if not 0 < options.total < float("inf"):
        parser.error(f"--total is {options.total}; give seconds above 0")
    if options.step:
        return STEPS[options.step](options.tiny, options.limit, options.json)
    if options.out is None:
        parser.error("name a folder: --out FOLDER (or OUT in the environment)")
    folder = Path(options.out).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {folder}: {error}")
    return carry_out(folder, options.total, options.tiny)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that the step that is running ends too
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    main()
