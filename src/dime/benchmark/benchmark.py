"""`dime benchmark`: how much of this machine's arithmetic an update uses, and what else costs time.

Absolute times depend on the machine and its load. So we divide the work of an update (computed from
the sizes of its networks) by its time, and give that as a share of the rate of a large matrix
product, which is measured in turn with the updates.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import gymnasium
import jax
import numpy as np
import rich
import rich.box
import rich.table

from dime.algorithms.dime import dime
from dime.algorithms.registry import ALGORITHMS
from dime.benchmark.timing import UpdateTimer, make_matmul, seconds
from dime.envs.registry import make
from dime.errors import choose
from dime.training.config import TrainingConfig, replace_nested
from dime.training.host.learners import HostLearners
from dime.training.machine import (
    dispatch_from_this_thread,
    freed_memory_kept,
    keep_compiled_programs,
)
from dime.training.presets import PRESETS, preset_settings, preset_training
from dime.training.records import read_records, require_writable, write_json
from dime.training.run import train
from dime.types import EnvSpec

ENV, SPEC = "dm_control/dog-run", EnvSpec(223, 38, 10_000)
"""What all algorithms are timed at."""
_FIRST_UPDATE = "import sys; from dime.benchmark.benchmark import first_update as f; f(sys.argv[1])"


@dataclass(frozen=True)
class Case:
    """Sizes to time; `work` is floating-point operations per environment step.

    A multiply-add counts as two. `work` covers 2 critic updates and 2/3 of a policy update at
    N = 16 and batch 256.
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


def benchmark(names: tuple[str, ...], file: Path | None) -> dict[str, Any]:
    """Times the cases and the loop, prints a table, and writes the figures to `file`."""
    for name in names:
        choose("case", name, CASES)
    with _figures_for(file) as figures:
        matmul = make_matmul()
        cases = [time_case(name, matmul) for name in names]
        figures["matmul_gflops"] = max(case["matmul_gflops"] for case in cases)
        figures["cases"] = cases
        figures["act_ms"] = median(case["act_ms"] for case in cases)
        rich.print(_table(cases), "timing the loop ...", flush=True)
        figures["first_update_s"], figures["first_update_again_s"] = first_updates_s(names[0])
        figures["loop_overhead_ms"] = loop_overhead_ms()
        print(
            f"Loop: {figures['loop_overhead_ms']:.2f} ms per env step beside environment, update "
            f"and action. First update of {names[0]}: after {figures['first_update_s']:.1f} s; in "
            "a later process, which finds the compiled programs, after "
            f"{figures['first_update_again_s']:.1f} s."
        )
    return figures


def benchmark_all(preset: str, file: Path | None) -> dict[str, Any]:
    """Times every algorithm at a preset's sizes, prints a table, and writes the figures to `file`.

    A row's network evaluations are those of its algorithm's record.
    """
    choose("preset", preset, PRESETS)
    with _figures_for(file) as figures:
        matmul = make_matmul()
        figures["preset"] = preset
        figures["algorithms"] = [time_algorithm(name, preset, matmul) for name in ALGORITHMS]
        rich.print(_table(figures["algorithms"]))
    return figures


@contextlib.contextmanager
def _figures_for(file: Path | None) -> Iterator[dict[str, Any]]:
    """The figures, which are filled inside and written to the file at the end."""
    if file is not None:
        require_writable(file)
    dispatch_from_this_thread()
    device = jax.devices()[0].device_kind
    figures: dict[str, Any] = {
        "machine": {"device": device, "cores": os.cpu_count(), "jax": jax.__version__}
    }
    yield figures
    if file is not None:
        write_json(file, figures)
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
    print(f"timing {name} ...", flush=True)
    case = CASES[name]
    settings = preset_settings("paper", "dime", case.env)
    settings = replace_nested(settings, {"critic": {"hidden_dim": case.critic_width}})
    timer = UpdateTimer(dime(settings, case.spec), TrainingConfig(), case.spec)
    times = _time(timer, 5, 3 if case.critic_width > 1000 else 15, matmul)
    gflops = case.work / times.env_step_s / 1e9
    return {
        "name": name,
        "update_ms_per_env_step": 1e3 * times.env_step_s,
        "gflops": gflops,
        "fraction_of_peak": gflops / times.matmul_gflops,
        "matmul_gflops": times.matmul_gflops,
        "act_ms": times.act_ms,
    }


def time_algorithm(name: str, preset: str, matmul: Callable[[], float]) -> dict[str, Any]:
    """Times an update and an action of an algorithm at a preset's sizes for `ENV`."""
    print(f"timing {name} ...", flush=True)
    algorithm, training = ALGORITHMS[name], preset_training(preset, name, ENV)
    settings = preset_settings(preset, name, ENV)
    timer = UpdateTimer(algorithm.make(settings, SPEC), training, SPEC)
    times = _time(timer, 3, 6, matmul)  # a round is a multiple of every policy delay
    update_ms = 1e3 * times.env_step_s / training.updates_per_env_step
    updates = training.updates_per_env_step / training.env_steps_per_update
    least, most = algorithm.network_evaluations(settings)
    return {
        "algorithm": name,
        "update_ms": update_ms,
        "updates_per_env_step": updates,
        "env_step_ms": update_ms * updates,
        "act_ms": times.act_ms,
        "network_evaluations_least": least,
        "network_evaluations_most": most,
        "matmul_gflops": times.matmul_gflops,
    }


class _Times(NamedTuple):
    env_step_s: float
    act_ms: float
    matmul_gflops: float


@freed_memory_kept()  # as in a run
def _time(timer: UpdateTimer, rounds: int, steps: int, matmul: Callable[[], float]) -> _Times:
    """Of rounds of env steps in turn with the matrix product, after one round to warm up."""
    timer.advance_s(steps)
    times, rates = zip(*((timer.advance_s(steps), matmul()) for _ in range(rounds)), strict=True)
    act_s = median(seconds(timer.act) for _ in range(100))
    return _Times(median(times), 1e3 * act_s, max(rates))


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
        records = list(read_records(Path(folder, "run", "metrics.jsonl")))
    return 1e3 / median(r["env_steps_per_s"] for r in records if r["env_step"] > 1_000)


def first_updates_s(case: str) -> tuple[float, float]:
    """Seconds from the start of a process to its first update at a case's sizes.

    Of a first process, which compiles, and of one after it, which finds the programs.
    """
    command = [sys.executable, "-c", _FIRST_UPDATE, CASES[case].env]
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": folder}

        def process():
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)

        return seconds(process), seconds(process)


def first_update(env: str) -> None:
    """Starts training with the paper's sizes and takes env steps up to the first update."""
    keep_compiled_programs()
    config = TrainingConfig(num_env_steps=1_000, num_random_steps=1)
    make_env = partial(make, env)
    environment = make_env()
    spec = EnvSpec(environment.obs_dim, environment.action_dim, config.replay_capacity)
    agent = dime(preset_settings("paper", "dime", env), spec)
    learners = HostLearners(config, agent, {0: environment}, make_env)
    learners.compile()
    learners.begin()
    while learners.update == 0:
        learners.step()
