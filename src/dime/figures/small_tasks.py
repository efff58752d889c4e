"""Every algorithm on the two-mode bandit: its actions against the exact density."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from dime.algorithms.registry import ALGORITHMS
from dime.deploy.policy import load_policy
from dime.envs.tiny import two_mode_log_density
from dime.figures.canvas import Draw
from dime.figures.figures import colour_of, plain_axes
from dime.training.run_directory import RunDirectory

ENVIRONMENT = "dime/TwoModeBandit-v0"
_NUM_ACTIONS = 4_000
_EDGES = np.linspace(-1.0, 1.0, 61).tolist()


def bandit_histograms(run_dirs: list[Path]) -> tuple[list[Draw], str]:
    """A panel per run on the bandit: actions of its newest checkpoint, first seed.

    Returns:
        The panels in the registry's order, and the sentence that belongs under them.
    """
    order = {name: place for place, name in enumerate(ALGORITHMS)}
    configs = {folder: RunDirectory.open(folder).config() for folder in run_dirs}
    on_bandit = [folder for folder in run_dirs if configs[folder]["env"] == ENVIRONMENT]
    on_bandit.sort(key=lambda folder: order.get(configs[folder]["algorithm"], len(order)))
    draws: list[Draw] = []
    for folder in on_bandit:
        algorithm = configs[folder]["algorithm"]
        mode = _sampling_mode(algorithm)
        panel = partial(
            _draw,
            actions=bandit_actions(folder, mode),
            algorithm=algorithm,
            mode=mode,
            temperature=fixed_temperature(configs[folder]),
        )
        draws.append(panel)
    note = (
        f"Histograms: {_NUM_ACTIONS} actions of each algorithm's newest checkpoint (first seed) on "
        "the two-mode bandit. Black line: exp(reward / temperature), normalised, at the run's "
        "fixed temperature; without one at 1, where it is the density whose logarithm is the "
        "reward: such algorithms lower their temperature, or have none, and one mode is enough."
    )
    return draws, note


def bandit_actions(run_dir: Path, mode: str) -> np.ndarray:
    """Actions of a run's first seed in the bandit's one state, (actions,)."""
    policy = load_policy(run_dir, mode=mode)
    obs = np.zeros((_NUM_ACTIONS, 1), np.float32)
    return np.asarray(policy(obs))[:, 0]


def _sampling_mode(algorithm: str) -> str:
    """The mode that draws plainly from the policy, where there is one."""
    modes = ALGORITHMS[algorithm].modes
    return "stochastic" if "stochastic" in modes else ALGORITHMS[algorithm].official_mode


def fixed_temperature(config: dict[str, Any]) -> float | None:
    """The temperature of a run that does not learn it.

    >>> fixed_temperature({"settings": {"temperature": {"initial": 3.0, "learn": False}}})
    3.0
    """
    temperature = config["settings"].get("temperature")
    if not isinstance(temperature, dict) or temperature.get("learn", True):
        return None
    return float(temperature["initial"])


def _draw(
    axes: Axes, actions: np.ndarray, algorithm: str, mode: str, temperature: float | None
) -> None:
    colour = colour_of(algorithm)
    axes.hist(actions, _EDGES, density=True, color=colour, alpha=0.6, zorder=2)
    grid = np.linspace(-1.0, 1.0, 401)
    exact = np.exp(two_mode_log_density(grid) / (temperature or 1.0))
    exact /= np.trapezoid(exact, grid)
    axes.plot(grid, exact, color="black", linewidth=1.2, zorder=3)
    axes.set_ylim(0.0, min(6.0, 2.2 * float(exact.max())))
    title = f"{algorithm}, {mode.replace('_', ' ')}"
    title += f", temperature {temperature:g}" if temperature else ""
    plain_axes(axes, title, "action", "density")
