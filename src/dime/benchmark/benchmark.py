"""`dime benchmark`: how much of this machine's arithmetic an update uses, and what else costs time.

Absolute times depend on the machine and its load. We divide the work of an update, known from its
networks' sizes, by its time, relative to a large matrix product measured in turn with it.
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
import rich
import rich.box
import rich.table

from dime.algorithms.dime import dime
from dime.algorithms.registry import ALGORITHMS
from dime.benchmark.timing import UpdateTimer, make_matmul, seconds
from dime.errors import choose
from dime.training.config import TrainingConfig, replace_nested
from dime.training.machine import dispatch_from_this_thread, freed_memory_kept
from dime.training.presets import PRESETS, preset_settings, preset_training
from dime.training.records import read_records, require_writable, write_json
from dime.training.run import train
from dime.types import EnvSpec

ENV, SPEC = "dm_control/dog-run", EnvSpec(223, 38, 10_000)
"""Sizes at which all algorithms are timed."""
_FIRST_UPDATE = """
import sys, dime
once = dict(num_env_steps=2, num_random_steps=1, evaluation_modes=(), progress=False)
dime.train(sys.argv[1], run_dir=sys.argv[2], **once)
"""


@dataclass(frozen=True)
class Case:
    """Sizes to time; `work` is floating-point operations per env step (a multiply-add is two).

    It covers 2 critic updates and 2/3 of a policy update at N = 16 and batch 256.
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


def benchmark(names: tuple[str, ...], file: Path | None) -> None:
    """Times the cases and the loop, prints a table, and writes the results to `file`."""
    for name in names:
        choose("case", name, CASES)
    matmul, results = _prepare(file)
    cases = [time_case(name, matmul) for name in names]
    results["matmul_gflops"] = max(case["matmul_gflops"] for case in cases)
    results["cases"] = cases
    results["act_ms"] = median(case["act_ms"] for case in cases)
    rich.print(_table(cases), "timing the loop ...", flush=True)
    results["first_update_s"], results["first_update_again_s"] = first_updates_s(names[0])
    results["loop_overhead_ms"] = loop_overhead_ms()
    print(
        f"Loop: {results['loop_overhead_ms']:.2f} ms per env step on top of environment, update "
        f"and action. First update of {names[0]}: after {results['first_update_s']:.1f} s, or "
        f"{results['first_update_again_s']:.1f} s with a warm compilation cache."
    )
    _write(file, results)


def benchmark_all(preset: str, file: Path | None) -> None:
    """Times every algorithm at a preset's sizes, prints a table, and writes the results to `file`.

    A row's network evaluations are those of its algorithm's record.
    """
    choose("preset", preset, PRESETS)
    matmul, results = _prepare(file)
    results["preset"] = preset
    results["algorithms"] = [time_algorithm(name, preset, matmul) for name in ALGORITHMS]
    rich.print(_table(results["algorithms"]))
    _write(file, results)


def _prepare(file: Path | None) -> tuple[Callable[[], float], dict[str, Any]]:
    """The matrix product, and the results' description of the machine."""
    if file is not None:
        require_writable(file)
    dispatch_from_this_thread()
    device = jax.devices()[0].device_kind
    machine = {"device": device, "cores": os.cpu_count(), "jax": jax.__version__}
    return make_matmul(), {"machine": machine}


def _write(file: Path | None, results: dict[str, Any]) -> None:
    if file is not None:
        write_json(file, results)
        print(f"wrote {file}")


def _table(rows: list[dict[str, Any]]) -> rich.table.Table:
    """A column for each key."""
    table = rich.table.Table(*(key.replace("_", " ") for key in rows[0]), box=rich.box.SIMPLE_HEAD)
    table.columns[0].no_wrap = True
    for row in rows:
        numbers = (f"{v:.0f}" if v >= 100 else f"{v:.3g}" for v in list(row.values())[1:])
        table.add_row(next(iter(row.values())), *numbers)
    return table


def time_case(name: str, matmul: Callable[[], float]) -> dict[str, Any]:
    """Times one case's updates in turn with the matrix product.

    A round is a multiple of three env steps, in which the policy is updated twice.
    """
    case = CASES[name]
    settings = preset_settings("paper", "dime", case.env)
    settings = replace_nested(settings, {"critic": {"hidden_dim": case.critic_width}})
    timer = UpdateTimer(dime(settings, case.spec), TrainingConfig(), case.spec)
    steps = 3 if case.critic_width > 1000 else 15
    env_step_s, act_ms, matmul_gflops = _time(name, timer, (5, steps), matmul)
    gflops = case.work / env_step_s / 1e9
    return {
        "name": name,
        "update_ms_per_env_step": 1e3 * env_step_s,
        "gflops": gflops,
        "fraction_of_peak": gflops / matmul_gflops,
        "matmul_gflops": matmul_gflops,
        "act_ms": act_ms,
    }


def time_algorithm(name: str, preset: str, matmul: Callable[[], float]) -> dict[str, Any]:
    """Times an update and an action of an algorithm at a preset's sizes for `ENV`."""
    algorithm, training = ALGORITHMS[name], preset_training(preset, name, ENV)
    settings = preset_settings(preset, name, ENV)
    timer = UpdateTimer(algorithm.make(settings, SPEC), training, SPEC)
    # Six env steps are a multiple of every policy delay.
    env_step_s, act_ms, matmul_gflops = _time(name, timer, (3, 6), matmul)
    update_ms = 1e3 * env_step_s / training.updates_per_env_step
    updates = training.updates_per_env_step / training.env_steps_per_update
    least, most = algorithm.network_evaluations(settings)
    return {
        "algorithm": name,
        "update_ms": update_ms,
        "updates_per_env_step": updates,
        "env_step_ms": update_ms * updates,
        "act_ms": act_ms,
        "network_evaluations_least": least,
        "network_evaluations_most": most,
        "matmul_gflops": matmul_gflops,
    }


@freed_memory_kept()  # as in a run
def _time(
    name: str, timer: UpdateTimer, sizes: tuple[int, int], matmul: Callable[[], float]
) -> tuple[float, float, float]:
    """Seconds per env step, ms per action and GFLOP/s of the matrix product, in turn.

    `sizes` are the number of rounds, after one to warm up, and the env steps in each.
    """
    print(f"timing {name} ...", flush=True)
    rounds, steps = sizes
    timer.advance_s(steps)
    times, rates = zip(*((timer.advance_s(steps), matmul()) for _ in range(rounds)), strict=True)
    act_s = median(seconds(timer.act) for _ in range(100))
    return median(times), 1e3 * act_s, max(rates)


class _InstantEnv(gymnasium.Env):
    """An environment with cheetah-run's sizes that costs nothing."""

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
    """Milliseconds per env step for dispatch, replay, records and the loop itself."""
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
        records = list(read_records(Path(folder, "run", "metrics.jsonl")))
    return 1e3 / median(r["env_steps_per_s"] for r in records if r["env_step"] > 1_000)


def first_updates_s(case: str) -> tuple[float, float]:
    """Seconds of a process that runs one round of updates, with a cold and a warm cache."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": folder}

        def process(name):
            command = [sys.executable, "-c", _FIRST_UPDATE, CASES[case].env, f"{folder}/{name}"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)

        return seconds(lambda: process("cold")), seconds(lambda: process("warm"))
