"""Figure 1 of DIME's paper: chains of a one-dimensional policy at several fixed temperatures."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dime.deploy.policy import restore_agents
from dime.envs.registry import make
from dime.envs.tiny import two_mode_log_density
from dime.errors import DimeError
from dime.figures.canvas import Draw, check_output, make_figure, save
from dime.figures.chains import (
    bin_centres,
    boltzmann,
    draw_chains,
    masses,
    prior_masses,
    total_variation,
)
from dime.figures.figures import unevaluated_note
from dime.figures.policy_figures import LINE_NOTE, NUM_PATHS, LineChain, draw_line_chain
from dime.figures.policy_views import Trained
from dime.figures.runs import RunDirs, read_runs

ENVIRONMENT = "dime/TwoModeBandit-v0"
NUM_CHAINS = 50_000
"""Per run: the histogram's own noise is then a total variation of about 0.01."""
_PANEL_SIZE = 4.2, 3.4  # inches


class TemperatureChains(NamedTuple):
    """The chains of one run on the bandit.

    Attributes:
        temperature: at which it was trained.
        name: the run's folder.
        seed: whose policy it is.
        env_step: how long it was trained.
        chain: what is drawn; its density is exp(reward / temperature).
    """

    temperature: float
    name: str
    seed: int
    env_step: int
    chain: LineChain

    @property
    def distance(self) -> float:
        """Total variation between the actions and exp(reward / temperature), 0 to 1."""
        return total_variation(self.chain.mass[-1], self.chain.density)


def draw_temperature_chains(run_dirs: RunDirs, output: str | Path) -> Path:
    """Draws chains of runs of DIME on the two-mode bandit, a panel per temperature.

    Train them with `--temperature.initial T --no-temperature.learn`.

    Args:
        run_dirs: folders of runs on `dime/TwoModeBandit-v0`.
        output: where to; the suffix says the format (.png, .pdf, .svg, ...).

    Returns:
        The file written.

    Raises:
        DimeError: not a run of DIME on that environment, its temperature was learnt, it has no
            checkpoint, or the format cannot be written.
    """
    path = check_output(output)
    return save(temperature_chains_figure(run_dirs), path)


def temperature_chains_figure(run_dirs: RunDirs) -> Figure:
    """The figure that `draw_temperature_chains` writes."""
    runs = sorted((chains_of(run.folder) for run in read_runs(run_dirs)), key=lambda r: r[:2])
    draws: list[Draw] = [partial(_draw, run=run) for run in runs]
    listed = "; ".join(
        f"{run.temperature:g}: {run.name}, seed {run.seed}, {run.env_step} env steps"
        for run in runs
    )
    caption = [
        f"DIME on {ENVIRONMENT} at fixed temperatures, stochastic actions, {NUM_CHAINS} chains "
        "each of the newest checkpoint's policy. The reward's exponential is known in closed form; "
        "total variation: between the last actions and it, 0 to 1.",
        LINE_NOTE,
        f"Runs by temperature: {listed}.",
    ]
    return make_figure(draws, [*caption, *unevaluated_note(run_dirs)], panel_size=_PANEL_SIZE)


def chains_of(run_dir: Path) -> TemperatureChains:
    """The chains of a run's first seed.

    Raises `DimeError` as `draw_temperature_chains`.
    """
    restored = restore_agents(run_dir)
    if restored.config.env != ENVIRONMENT:
        raise DimeError(
            f"{run_dir} is a run on {restored.config.env}; the chains of several temperatures are "
            f"drawn on {ENVIRONMENT}, where the right answer is known."
        )
    agent = Trained.of(restored, 0, run_dir)
    if agent.config.temperature.learn:
        raise DimeError(
            f"The temperature of {run_dir} was learnt. Train with a fixed one: dime train "
            f"{ENVIRONMENT} --preset laptop --temperature.initial T --no-temperature.learn"
        )
    obs = make(ENVIRONMENT).reset(0)
    drawn = draw_chains(agent.state.policy.module, obs, NUM_CHAINS, jax.random.key(0))
    reward = two_mode_log_density(bin_centres(1))
    chain = LineChain(
        mass=masses(drawn.actions),
        points=np.array(drawn.actions[:, :NUM_PATHS, 0]),
        prior=prior_masses(agent.prior_std),
        density=boltzmann(reward, agent.temperature),
        density_name="exp(reward / temperature)",
    )
    env_step = restored.checkpoint.env_step
    return TemperatureChains(
        agent.temperature, run_dir.resolve().name, restored.seeds[0], env_step, chain
    )


def _draw(axes: Axes, run: TemperatureChains) -> None:
    draw_line_chain(axes, run.chain)
    axes.set_ylabel("action")
    axes.set_title(
        f"temperature {run.temperature:g}: total variation {run.distance:.2f}", fontsize=10
    )
