"""How the cost of an env step grows with seeds, denoising steps, batch, width, action dimension.

    python benchmarks/growth.py --json figures.json --picture growth.png

It varies one quantity at a time around the paper's sizes for humanoid-run, and fits the time by
least squares as `fixed + slope * quantity` (width: its square, as in a matrix product).
"""

import argparse
import dataclasses
import json
from pathlib import Path
from statistics import median

import jax
import matplotlib.pyplot as plt
import numpy as np

from dime.algorithms.registry import ALGORITHMS
from dime.benchmark.timing import UpdateTimer, seconds
from dime.training.config import TrainingConfig, replace_nested
from dime.training.machine import dispatch_from_this_thread, freed_memory_kept
from dime.types import EnvSpec

OBS_DIM, ACTION_DIM = 67, 21  # humanoid-run
VALUES = {
    "seeds": (1, 2, 3, 4),
    "denoising_steps": (4, 8, 16, 32),
    "batch": (64, 128, 256, 512),
    "critic_width": (256, 512, 1024, 2048),
    "action_dim": (4, 21, 38, 64),
}
PAPER = {
    "seeds": 1,
    "denoising_steps": 16,
    "batch": 256,
    "critic_width": 2048,
    "action_dim": ACTION_DIM,
}
TINY = {"denoising_steps": 2, "batch": 8, "critic_width": 8}
PERIOD = 3  # env steps until the policy's delay repeats


@freed_memory_kept()  # as in a run
def env_step_ms(sizes: dict[str, int], rounds: int) -> float:
    """Milliseconds of an env step's updates and next actions, all seeds together."""
    algorithm = ALGORITHMS["dime"]
    overrides = {
        "policy": {"num_denoising_steps": sizes["denoising_steps"]},
        "critic": {"v_min": -200.0, "v_max": 200.0, "hidden_dim": sizes["critic_width"]},
    }
    settings = replace_nested(algorithm.config(), overrides)
    training = dataclasses.replace(TrainingConfig(), batch_size=sizes["batch"])
    spec = EnvSpec(OBS_DIM, sizes["action_dim"], 10_000)
    timer = UpdateTimer(algorithm.make(settings, spec), training, spec, sizes["seeds"])

    def period():
        for _ in range(PERIOD):
            timer.advance()

    period()
    return 1e3 * median(seconds(period) for _ in range(rounds)) / PERIOD


def fit(quantity: str, values: list[int], times: list[float]) -> dict[str, float]:
    """Least squares; the slope per unit, of width per unit squared.

    One seed alone is another program (without the axis of seeds) and does not belong to the line.
    """
    if quantity == "seeds" and len(values) > 2:
        values, times = values[1:], times[1:]
    power = 2 if quantity == "critic_width" else 1
    slope, fixed = np.polyfit(np.array(values, float) ** power, times, 1)
    return {"fixed_ms": float(fixed), "slope_ms": float(slope), "power": power}


def draw(figures: dict, file: Path) -> None:
    """A panel for each quantity: what was measured, and the fit."""
    drawn, panels = plt.subplots(1, len(VALUES), figsize=(3 * len(VALUES), 2.8), sharey=True)
    for panel, (quantity, curve) in zip(panels, figures["curves"].items(), strict=True):
        panel.plot(curve["values"], curve["ms"], "o", label="measured")
        along = np.linspace(0, max(curve["values"]), 50)
        fitted = (
            curve["fit"]["fixed_ms"] + curve["fit"]["slope_ms"] * along ** curve["fit"]["power"]
        )
        panel.plot(along, fitted, label="fit")
        panel.set_xlabel(quantity.replace("_", " "))
        panel.set_ylim(bottom=0)
    panels[0].set_ylabel("ms per env step")
    panels[0].legend()
    drawn.tight_layout()
    drawn.savefig(file, dpi=120)
    plt.close(drawn)


def main(arguments: list[str] | None = None) -> dict:
    """Measures all, prints each, and writes figures and picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that it works")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args(arguments)
    dispatch_from_this_thread()
    base = PAPER | (TINY if options.tiny else {})
    figures: dict = {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "base": base}
    figures["curves"] = {}
    for quantity, every in VALUES.items():
        values = list(every[:2] if options.tiny else every)
        times = []
        for value in values:
            times.append(env_step_ms(base | {quantity: value}, options.rounds))
            print(f"{quantity} {value}: {times[-1]:.1f} ms", flush=True)
        curve = {"values": values, "ms": times, "fit": fit(quantity, values, times)}
        figures["curves"][quantity] = curve
        print(quantity, curve["fit"], flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if options.picture:
        draw(figures, options.picture)
    return figures


if __name__ == "__main__":
    main()
