"""`dime benchmark --all-algorithms`: what an update and an action of each algorithm cost."""

from statistics import median
from typing import Any

import rich.box
import rich.console
import rich.table

from dime.algorithms.registry import ALGORITHMS
from dime.benchmark.costs import network_evaluations
from dime.benchmark.timing import UpdateTimer, make_matmul, seconds
from dime.training.machine import freed_memory_kept
from dime.training.presets import preset_settings, preset_training
from dime.types import EnvSpec

ENV, SPEC = "dm_control/dog-run", EnvSpec(223, 38, 10_000)
_NUM_ROUNDS = 3
_ENV_STEPS = 6  # a multiple of every policy delay


def benchmark_algorithms(preset: str, console: rich.console.Console) -> list[dict[str, Any]]:
    """Times every listed algorithm at a preset's sizes for dog-run; returns a record for each."""
    matmul, records = make_matmul(), []
    for name in ALGORITHMS:
        console.print(f"timing {name} ...")
        records.append({"algorithm": name, **_time(name, preset), "matmul_gflops": matmul()})
    console.print(_table(records))
    return records


@freed_memory_kept()  # as in a run
def _time(name: str, preset: str) -> dict[str, float]:
    settings = preset_settings(preset, name, ENV)
    training = preset_training(preset, name, ENV)
    algorithm = ALGORITHMS[name]
    timer = UpdateTimer(algorithm.make(settings, SPEC), training, SPEC)

    def advance():
        for _ in range(_ENV_STEPS):
            timer.advance()

    advance()  # a warm-up
    round_s = median(seconds(advance) for _ in range(_NUM_ROUNDS))
    update_s = round_s / _ENV_STEPS / training.updates_per_env_step
    updates_per_env_step = training.updates_per_env_step / training.env_steps_per_update
    evaluations = network_evaluations(algorithm, settings)
    return {
        "update_ms": 1e3 * update_s,
        "updates_per_env_step": updates_per_env_step,
        "env_step_ms": 1e3 * update_s * updates_per_env_step,
        "act_ms": 1e3 * median(seconds(timer.act) for _ in range(30)),
        "network_evaluations_least": evaluations.least,
        "network_evaluations_most": evaluations.most,
    }


def _table(records: list[dict[str, Any]]) -> rich.table.Table:
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    table.add_column("algorithm", no_wrap=True)
    for title in ("ms per update", "updates per env step", "ms per action"):
        table.add_column(title, justify="right")
    table.add_column("network evaluations per row and update", justify="right")
    for record in records:
        least, most = (record[f"network_evaluations_{end}"] for end in ("least", "most"))
        table.add_row(
            record["algorithm"],
            f"{record['update_ms']:.1f}",
            f"{record['updates_per_env_step']:.2g}",
            f"{record['act_ms']:.2f}",
            f"{least:g}" if least == most else f"{least:g} to {most:g}",
        )
    return table
