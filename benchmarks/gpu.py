"""The cost of an env step on an accelerator, by seeds, denoising steps and environment latency.

python benchmarks/gpu.py --json benchmarks/results/DEVICE.json

Needs only JAX, Equinox, Optax, jaxtyping and NumPy, with `src` on PYTHONPATH. On a CPU, use
`--seeds 1 --steps 16 --env-steps 20`.
"""

import argparse
import dataclasses
import itertools
import json
import time
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp

from dime.algorithms.registry import ALGORITHMS
from dime.benchmark.timing import UpdateTimer, seconds
from dime.training.config import TrainingConfig, replace_nested
from dime.training.host.programs import matmul_precision
from dime.training.machine import dispatch_from_this_thread, freed_memory_kept
from dime.types import EnvSpec

SPECS = {"dog-run": EnvSpec(223, 38, 10_000), "humanoid-run": EnvSpec(67, 21, 10_000)}
# GFLOP at 16 denoising steps, batch 256: critic update, policy update, chains of 256 actions.
WORK = {"dog-run": (32.6, 16.8, 256 * 15e-3), "humanoid-run": (30.0, 14.9, 256 * 13.5e-3)}
LATENCIES_MS = (0.5, 2.0)
NUM_WARM_UP = 6  # env steps, a multiple of the policy delay
PRECISIONS = ("float32", "tensorfloat32", "bfloat16")
PRODUCT_SIZE = 8192
TINY = {"policy": {"hidden_dim": 8}, "critic": {"hidden_dim": 8}}


def work(task: str, num_steps: int) -> float:
    """GFLOP of an env step: 2 critic updates, each with a chain, and 2/3 of a policy update.

    A policy update goes through the chain forwards and backwards: three times the work.
    """
    critic, policy, chain = WORK[task]
    longer = num_steps / 16 - 1.0
    return 2 * (critic + chain * longer) + 2 / 3 * (policy + 3 * chain * longer)


def product_gflops(precision: str, tiny: bool) -> float:
    """The device's rate in large matrix products."""
    size = PRODUCT_SIZE if jax.default_backend() != "cpu" else 2048
    size = 64 if tiny else size
    matrix = jax.random.normal(jax.random.key(0), (size, size))
    with matmul_precision(TrainingConfig(matmul_precision=precision), jax.default_backend()):
        product = jax.jit(jnp.matmul)
        product(matrix, matrix).block_until_ready()
        rounds = [seconds(lambda: product(matrix, matrix).block_until_ready()) for _ in range(5)]
    return 2 * size**3 / min(rounds) / 1e9


def make_timer(
    options: argparse.Namespace, num_seeds: int, num_steps: int, smaller: dict | None = None
) -> UpdateTimer:
    """A run's programs at the paper's sizes with `smaller` ones in them, or at tiny ones."""
    algorithm = ALGORITHMS["dime"]
    settings = replace_nested(
        algorithm.config(),
        {"policy": {"num_denoising_steps": num_steps}, "critic": {"v_min": -200.0, "v_max": 200.0}},
    )
    settings = replace_nested(settings, smaller or {})
    training = TrainingConfig(matmul_precision=options.precision)
    if options.tiny:
        settings = replace_nested(settings, TINY)
        training = dataclasses.replace(training, batch_size=8)
    spec = SPECS[options.task]
    return UpdateTimer(algorithm.make(settings, spec), training, spec, num_seeds)


@freed_memory_kept()  # as in a run
def measure(options: argparse.Namespace, num_seeds: int, num_steps: int) -> dict:
    """Figures of one number of seeds and of denoising steps."""
    began = time.perf_counter()
    timer = make_timer(options, num_seeds, num_steps)
    compile_s = time.perf_counter() - began
    for _ in range(NUM_WARM_UP):
        timer.advance()
    env_step_ms = {}
    for latency_ms in (0.0, *options.latencies_ms):

        def env_steps(latency_s=latency_ms / 1e3):
            for _ in range(options.env_steps):
                if latency_s:
                    time.sleep(latency_s)  # stands for the environments
                timer.advance()

        env_step_ms[str(latency_ms)] = 1e3 * seconds(env_steps) / options.env_steps
    update_s = env_step_ms["0.0"] / 1e3
    gflops = num_seeds * work(options.task, num_steps) / update_s
    memory = jax.devices()[0].memory_stats() or {}
    return {
        "num_seeds": num_seeds,
        "num_denoising_steps": num_steps,
        "env_steps_timed": options.env_steps,
        "env_step_ms_by_latency_ms": env_step_ms,
        "act_ms": 1e3 * median(seconds(timer.act) for _ in range(50)),
        "gflops": None if options.tiny else gflops,
        "peak_memory_mb": memory.get("peak_bytes_in_use", 0) / 1e6 or None,
        "compile_s": compile_s,
        "hours_per_1m_env_steps_extrapolated": update_s * 1e6 / 3600,
    }


def main(arguments: list[str] | None = None) -> dict:
    """Measures every combination, prints a line for each, and writes them to a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=SPECS, default="humanoid-run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 5, 10])
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--env-steps", type=int, default=1000, help="3000 for hours per 1M steps")
    parser.add_argument(
        "--latencies-ms",
        type=float,
        nargs="*",
        default=LATENCIES_MS,
        help="environments that take so long, beside one that takes no time; none leaves them out",
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that it works")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    dispatch_from_this_thread()
    figures = {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "task": options.task,
        "precision": options.precision,
        "tiny": options.tiny,
        "product_gflops": product_gflops(options.precision, options.tiny),
        "rows": [],
    }
    print({name: value for name, value in figures.items() if name != "rows"}, flush=True)
    for num_seeds, num_steps in itertools.product(options.seeds, options.steps):
        row = measure(options, num_seeds, num_steps)
        figures["rows"].append(row)
        print(row, flush=True)
        if options.json:  # after each: a machine may be taken back
            options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return figures


if __name__ == "__main__":
    main()
