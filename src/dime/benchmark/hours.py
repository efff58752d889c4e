"""How long runs take, from measured updates and actions."""

import json
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from dime.errors import DimeError, describe
from dime.training.config import RunConfig

_SHIPPED = "algorithms-cpu-2-cores.json"
_SHIPPED_LAPTOP = "algorithms-laptop-cpu-2-cores.json"


class Cost(NamedTuple):
    """Of an algorithm: milliseconds, and the rate of a matrix product at the same time."""

    update_ms: float
    act_ms: float
    matmul_gflops: float


def read_costs(figures: Path | None, preset: str) -> tuple[dict[str, Cost], str]:
    """Figures of the benchmark by algorithm, and what they were measured on.

    Raises:
        DimeError: `figures` is no file of `dime benchmark --all-algorithms --json`.
    """
    name = _SHIPPED_LAPTOP if preset == "laptop" else _SHIPPED
    shipped = resources.files("dime").joinpath("data", name)
    try:
        content = json.loads((figures or shipped).read_text("utf-8-sig"))
        by_name = {
            row["algorithm"]: Cost(
                float(row["update_ms"]),
                float(row["act_ms"]),
                float(row.get("matmul_gflops", "nan")),  # files of others lack it
            )
            for row in content["algorithms"]
        }
        machine, measured_preset = dict(content["machine"]), content["preset"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DimeError(
            f"{figures or name} is no file of `dime benchmark --all-algorithms --json` "
            f"({describe(error)})."
        ) from error
    where = ", ".join(f"{part} {value}" for part, value in machine.items())
    return by_name, f"from updates at the sizes of the preset '{measured_preset}' on {where}"


def hours(config: RunConfig, costs: dict[str, Cost]) -> float | None:
    """Hours of a run's updates and actions; None where its algorithm's costs are not known."""
    if config.algorithm not in costs:
        return None
    cost, training = costs[config.algorithm], config.training
    updates = training.updates_per_env_step / training.env_steps_per_update
    trained = max(training.num_env_steps - training.num_random_steps, 0)
    milliseconds = trained * updates * cost.update_ms + training.num_env_steps * cost.act_ms
    return milliseconds * len(training.seeds) / 3.6e6
