"""`dime benchmark`: how much of this machine's arithmetic an update uses, and what else costs time.

Absolute times move with the machine and its load. So the work of an update (from the sizes of the
networks, whatever is really executed) over its time is given as a share of the rate of a large
matrix product, measured in turn with the updates.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium
import jax
import numpy as np
import rich.box
import rich.console
import rich.table

from dime.algorithms.dime import dime
from dime.api import train
from dime.benchmark.algorithms import benchmark_algorithms
from dime.benchmark.timing import UpdateTimer, make_matmul, seconds
from dime.errors import choose
from dime.training.config import TrainingConfig, replace_nested
from dime.training.machine import dispatch_from_this_thread, freed_memory_kept
from dime.training.preset_names import PRESETS
from dime.training.presets import preset_settings
from dime.training.records import read_records, require_writable, write_json
from dime.types import EnvSpec

NUM_ROUNDS = 5


@dataclass(frozen=True)
class Case:
    """Sizes to time; `work` is floating-point operations per env step, multiply-adds twice.

    `work` counts 2 critic updates and 2/3 of a policy update at N = 16 and batch 256.
    """

    env: str
    spec: EnvSpec
    critic_width: int
    work: float


CASES = {
    "paper/dog-run": Case("dm_control/dog-run", EnvSpec(223, 38), 2048, 76.4e9),
    "paper/humanoid-run": Case("dm_control/humanoid-run", EnvSpec(67, 21), 2048, 69.9e9),
    "small/cheetah-run": Case("dm_control/cheetah-run", EnvSpec(17, 6), 256, 8.0e9),
}


@freed_memory_kept()  # as in a run
def time_case(name: str, matmul: Callable[[], float]) -> dict[str, Any]:
    """Times one case's updates in turn with the matrix product.

    A round is a multiple of three env steps, in which the policy is updated twice.
    """
    case = CASES[name]
    settings = preset_settings("paper", "dime", case.env)
    settings = replace_nested(settings, {"critic": {"hidden_dim": case.critic_width}})
    timer = UpdateTimer(dime(settings, case.spec), TrainingConfig(), case.spec)
    steps = 3 if case.critic_width > 1000 else 15
    seconds(lambda: [timer.advance() for _ in range(steps)])  # a warm-up
    rounds, rates = [], []
    for _ in range(NUM_ROUNDS):
        rounds.append(seconds(lambda: [timer.advance() for _ in range(steps)]) / steps)
        rates.append(matmul())
    update_s, peak = median(rounds), max(rates)
    return {
        "name": name,
        "update_ms_per_env_step": 1e3 * update_s,
        "gflops": case.work / update_s / 1e9,
        "fraction_of_peak": case.work / update_s / 1e9 / peak,
        "matmul_gflops": peak,
        "act_ms": 1e3 * median(seconds(timer.act) for _ in range(100)),
    }


class _InstantEnv(gymnasium.Env):
    """An environment of cheetah-run's sizes that costs nothing."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (17,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (6,), np.float32)
    max_episode_steps = 1000

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        self._steps = 0
        return np.zeros(17, np.float32), {}

    def step(self, action: np.ndarray):
        self._steps += 1
        return np.zeros(17, np.float32), 0.0, False, self._steps == self.max_episode_steps, {}


def loop_overhead_ms() -> float:
    """Milliseconds per env step of a run whose environment and networks cost next to nothing.

    What is left is dispatch, replay, records and the loop itself.
    """
    tiny = {"hidden_dim": 8, "num_hidden_layers": 1}
    with tempfile.TemporaryDirectory() as folder:
        train(
            _InstantEnv,
            preset="laptop",
            run_dir=f"{folder}/run",
            progress=False,
            num_env_steps=4_000,
            num_random_steps=500,
            batch_size=1,
            updates_per_env_step=1,
            evaluation_modes=(),
            checkpoint_every=4_000,
            policy={**tiny, "num_denoising_steps": 1},
            critic={**tiny, "v_min": -1.0, "v_max": 1.0},
        )
        rates = [
            record["env_steps_per_s"]
            for record in read_records(Path(folder, "run", "metrics.jsonl"))
            if record["env_step"] > 1_000
        ]
    return 1e3 / median(rates)


def first_updates_s(case: str) -> tuple[float, float]:
    """Seconds from the start of a process to its first update at a case's sizes.

    Of a first process, which compiles, and of one after it, which finds the programs.
    """
    command = [sys.executable, "-m", "dime.benchmark.first_update", CASES[case].env]
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": folder}

        def process():
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)

        return seconds(process), seconds(process)


def benchmark(names: tuple[str, ...], file: Path | None) -> dict[str, Any]:
    """Times everything, prints a table, and writes the figures to `file`."""
    for name in names:
        choose("case", name, CASES)
    if file is not None:
        require_writable(file)
    dispatch_from_this_thread()
    console = rich.console.Console()
    matmul = make_matmul()
    cases = []
    for name in names:
        console.print(f"timing {name} ...")
        cases.append(time_case(name, matmul))
    console.print("timing the loop ...")
    first, again = first_updates_s(names[0])
    figures = {
        "machine": _machine(),
        "matmul_gflops": max(case["matmul_gflops"] for case in cases),
        "cases": cases,
        "act_ms": median(case["act_ms"] for case in cases),
        "loop_overhead_ms": loop_overhead_ms(),
        "first_update_s": first,
        "first_update_again_s": again,
    }
    console.print(_table(figures))
    console.print(
        f"Loop: {figures['loop_overhead_ms']:.2f} ms per env step beside environment, update and "
        f"action. First update of {names[0]}: after {first:.1f} s; in a later process, which finds "
        f"the compiled programs, after {again:.1f} s."
    )
    if file is not None:
        write_json(file, figures)
        console.print(f"wrote {file}")
    return figures


def benchmark_all(preset: str, file: Path | None) -> dict[str, Any]:
    """Times every algorithm, prints a table, and writes the figures to `file`."""
    choose("preset", preset, PRESETS)
    if file is not None:
        require_writable(file)
    dispatch_from_this_thread()
    console = rich.console.Console()
    algorithms = benchmark_algorithms(preset, console)
    figures = {"machine": _machine(), "preset": preset, "algorithms": algorithms}
    if file is not None:
        write_json(file, figures)
        console.print(f"wrote {file}")
    return figures


def _machine() -> dict[str, Any]:
    return {
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "jax": jax.__version__,
    }


def _table(figures: dict[str, Any]) -> rich.table.Table:
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    table.add_column("case", no_wrap=True)
    for title in ("ms per env step", "GFLOP/s", "of the matrix product", "ms per action"):
        table.add_column(title, justify="right")
    for case in figures["cases"]:
        table.add_row(
            case["name"],
            f"{case['update_ms_per_env_step']:.1f}",
            f"{case['gflops']:.0f}",
            f"{case['fraction_of_peak']:.2f} of {case['matmul_gflops']:.0f}",
            f"{case['act_ms']:.2f}",
        )
    return table
