"""Timing an algorithm's compiled programs and matrix products, and the hours that follow."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dime.errors import DimeError, describe
from dime.training.config import RunConfig, TrainingConfig
from dime.training.host.programs import Programs, StepInputs, counters, initialise, seed_keys
from dime.training.replay import empty_replay
from dime.types import Agent, EnvSpec, Transition

MATMUL_SIZE = 2048
REPLAY_ROWS = 10_000
_SHIPPED = "algorithms-cpu-2-cores.json"
_SHIPPED_LAPTOP = "algorithms-laptop-cpu-2-cores.json"


def seconds(function: Callable[[], Any]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def make_matmul() -> Callable[[], float]:
    """A float32 matrix product of `MATMUL_SIZE`; each call returns its rate in GFLOP/s."""
    matrix = jax.random.normal(jax.random.key(0), (MATMUL_SIZE, MATMUL_SIZE))
    product = jax.jit(lambda m: m @ m)
    product(matrix).block_until_ready()
    return lambda: 2 * MATMUL_SIZE**3 / seconds(lambda: product(matrix).block_until_ready()) / 1e9


class UpdateTimer:
    """A run's update and acting programs, on random data."""

    def __init__(self, agent: Agent, training: TrainingConfig, spec: EnvSpec, num_seeds: int = 1):
        self.config = replace(training, num_env_steps=REPLAY_ROWS, evaluation_modes=())
        self.programs = Programs(agent, self.config, spec, num_seeds)
        self.keys = seed_keys(tuple(range(num_seeds)))
        self.state = initialise(agent, self.keys)
        self.replay = jax.tree.map(
            lambda leaf: (
                jax.random.normal(jax.random.key(0), leaf.shape, leaf.dtype)
                if leaf.dtype == jnp.float32
                else leaf
            ),
            empty_replay(self.config, spec, num_seeds),
        )
        newest = Transition(*(ring[:, 0] for ring in self.replay))
        self.transition = jax.tree.map(np.asarray, newest)
        self.obs = self.transition.obs
        self.env_step = REPLAY_ROWS

    def advance(self) -> np.ndarray:
        """One env step's updates of every seed, and their next actions."""
        self.env_step += 1
        update = self.config.updates_per_env_step * self.env_step
        inputs = StepInputs(self.transition, self.obs, self.keys, counters(self.env_step, update))
        self.replay, learned, action = self.programs.advance(self.state, self.replay, inputs)
        self.state = learned.state
        return np.asarray(action)

    def advance_s(self, num_env_steps: int) -> float:
        """Seconds per env step, over so many."""
        return seconds(lambda: [self.advance() for _ in range(num_env_steps)]) / num_env_steps

    def act(self) -> np.ndarray:
        """One action of every seed."""
        at = counters(self.env_step, 0)
        return np.asarray(self.programs.explore(self.state, self.obs, self.keys, at))


class Cost(NamedTuple):
    """Of an algorithm: milliseconds, and the rate of a matrix product measured in turn."""

    update_ms: float
    act_ms: float
    matmul_gflops: float = math.nan  # older files lack it


def read_costs(figures: Path | None, preset: str) -> tuple[dict[str, Cost], str]:
    """Measured costs by algorithm, and a note on how they were measured.

    Raises:
        DimeError: `figures` is no file of `dime benchmark --all-algorithms --json`.
    """
    name = _SHIPPED_LAPTOP if preset == "laptop" else _SHIPPED
    shipped = resources.files("dime").joinpath("data", name)
    try:
        content = json.loads((figures or shipped).read_text("utf-8-sig"))
        by_name = {
            row["algorithm"]: Cost(**{k: float(v) for k, v in row.items() if k in Cost._fields})
            for row in content["algorithms"]
        }
        where = ", ".join(f"{part} {value}" for part, value in content["machine"].items())
        note = f"from updates at the sizes of the preset '{content['preset']}' on {where}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DimeError(
            f"{figures or name} is no file of `dime benchmark --all-algorithms --json` "
            f"({describe(error)})."
        ) from error
    return by_name, note


def hours(config: RunConfig, costs: dict[str, Cost]) -> float | None:
    """Hours of a run's updates and actions; None if its algorithm's costs are not known."""
    if config.algorithm not in costs:
        return None
    cost, training = costs[config.algorithm], config.training
    updates = training.updates_per_env_step / training.env_steps_per_update
    trained = max(training.num_env_steps - training.num_random_steps, 0)
    milliseconds = trained * updates * cost.update_ms + training.num_env_steps * cost.act_ms
    return milliseconds * len(training.seeds) / 3.6e6
