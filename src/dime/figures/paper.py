"""The figures of the paper by number, each from the records of its study."""

import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dime.algorithms.registry import ALGORITHMS
from dime.deploy.policy import load_policy, restore_agents
from dime.envs.registry import make
from dime.envs.tiny import two_mode_log_density
from dime.errors import DimeError, choose, describe, require
from dime.figures import curves, policy, style
from dime.figures.curves import Reference, Series, histories_of, panels_of, series_of
from dime.figures.learning import interval_note, learning_caption, learning_panels
from dime.figures.policy_drawing import LINE_NOTE, NUM_PATHS, draw_line_chain
from dime.figures.runs import (
    Run,
    RunDirs,
    by_environment,
    flatten,
    folders_of,
    read_runs,
    unevaluated_note,
)
from dime.training.records import read_records
from dime.training.run_directory import RunDirectory

BANDIT = "dime/TwoModeBandit-v0"
PAPER_ENVIRONMENTS = (
    *(f"dm_control/dog-{task}" for task in ("stand", "walk", "trot", "run")),
    *(f"dm_control/humanoid-{task}" for task in ("stand", "walk", "run")),
    *("Ant-v3-compatible", "Humanoid-v4"),
    *(f"myoHand{task}Random-v0" for task in ("ObjHold", "Reach", "KeyTurn", "PenTwirl")),
)
"""The thirteen of the paper; Humanoid-v4 has the sizes of its Humanoid-v3."""

Content = tuple[list[style.Draw], list[str]]
"""What draws each panel, and the paragraphs of the caption."""

_TEMPERATURE = "settings.temperature.initial"
_NUM_STEPS = "settings.policy.num_denoising_steps"
_POINTS_NOTE = (
    "Dots: runs. Line: their interquartile mean, bars: its 95 % stratified bootstrap interval; "
    "with fewer than three runs their mean, no interval."
)


def draw_figure(
    name: str, run_dirs: RunDirs, output: str | Path, reference: str | Path | None = None
) -> Path:
    """Draws a figure of the paper from records.

    Every algorithm is shown in its official evaluation mode.

    Args:
        name: number of the figure, as "2a", or "comparison".
        run_dirs: folders of its study or of runs; none for "5".
        output: the file; its suffix chooses the format (.png, .pdf, .svg).
        reference: curves to draw beside them, as for `plot`.

    Returns:
        The file written.

    Raises:
        DimeError: no such figure, or its runs are not what it shows.
    """
    path = style.check_output(output)
    return style.save(paper_figure(name, run_dirs, reference), path)


def paper_figure(name: str, run_dirs: RunDirs, reference: str | Path | None = None) -> Figure:
    """The figure that `draw_figure` writes."""
    choose("figure", name, FIGURES)
    folders = folders_of(run_dirs)
    studies, content = FIGURES[name]
    if content is None:
        require(not folders, f"Figure {name} shows the environments: it takes no runs.")
        return gallery_figure()
    asked = f"those of the study {' or '.join(studies)}"
    require(bool(folders), f"Figure {name} is drawn from runs: {asked}.")
    draws, caption = content(read_runs(folders), curves.read_reference(reference))
    size = (4.2, 3.4) if name == "1" else style.PANEL_SIZE
    return style.make_figure(draws, [*caption, *unevaluated_note(folders)], panel_size=size)


def official(runs: list[Run]) -> list[Run]:
    """The runs with the records of one mode: their algorithm's official one, or their first."""
    shown = []
    for run in runs:
        modes = [record["mode"] for record in run.records]
        mode = curves.official_mode(run.config["algorithm"], modes)
        shown.append(run._replace(records=[r for r in run.records if r["mode"] == mode]))
    return shown


def _curves(runs: list[Run], reference: Reference | None) -> Content:
    panels = panels_of(official(runs))
    return learning_panels(panels, reference), learning_caption(panels, reference)


# ---- figures 2b and 3b: a number over a setting

Points = dict[float, np.ndarray]
"""By the value of a setting, in rising order, a number for each of its runs."""


def final_score_points(runs: list[Run], metric: str, setting: str) -> tuple[int, Points]:
    """The last env step that all runs share, and the scores there by the value of a setting.

    Raises `DimeError` if the runs lack the setting or share no env step after 0.
    """
    histories = [
        (run, history)
        for run in official(runs)
        for history in histories_of([run], run.records[0]["mode"], metric).values()
    ]
    last = max(set.intersection(*(set(history) for _, history in histories)), default=0)
    require(last > 0, "The runs share no evaluation after env step 0.")
    return last, _points(((run, history[last]) for run, history in histories), setting)


def wall_clock_points(runs: list[Run], setting: str) -> Points:
    """Hours per million env steps between evaluations, by the value of a setting.

    The time up to the second evaluation is left out if there are more: compilation is in it. One
    number per run directory: seeds that share a program share its time.
    """
    numbers = []
    for run in runs:
        # The last record of an evaluation: its own time must not be counted either.
        times = {record["env_step"]: record["wall_time_s"] for record in run.records}
        require(len(times) > 1, f"{run.folder} has only one evaluation: no time between two.")
        first, last = sorted(times)[1 if len(times) > 2 else 0], max(times)
        numbers.append((run, (times[last] - times[first]) / (last - first) * 1e6 / 3600))
    return _points(numbers, setting)


def _points(numbers: Iterable[tuple[Run, float]], setting: str) -> Points:
    by_value: dict[float, list[float]] = defaultdict(list)
    for run, number in numbers:
        value = flatten(run.config).get(setting)
        if not isinstance(value, int | float):
            raise DimeError(f"{run.folder} has no number {setting}; the figure is drawn over it.")
        by_value[float(value)].append(number)
    return {value: np.array(by_value[value]) for value in sorted(by_value)}


def _final_scores(runs: list[Run], _: Reference | None) -> Content:
    panels, draws, by_env = panels_of(official(runs)), [], by_environment(runs)
    for panel in panels:
        last, points = final_score_points(by_env[panel.environment], panel.metric, _TEMPERATURE)
        label = f"{style.METRIC_LABELS[panel.metric]} at env step {last:,}"
        labels = panel.environment, "temperature", label
        draws.append(partial(_draw_points, points=points, labels=labels))
    note = (
        "Scores at the last env step that all runs share, against the initial temperature (fixed "
        f"in the study figure_2ab). {_POINTS_NOTE}"
    )
    return draws, [note, *learning_caption(panels, None)[1:]]


def _wall_clock(runs: list[Run], _: Reference | None) -> Content:
    draws = []
    for environment, own in by_environment(runs).items():
        labels = environment, "denoising steps", "hours per 1M env steps"
        points = wall_clock_points(own, _NUM_STEPS)
        draws.append(partial(_draw_points, points=points, labels=labels, bottom=0.0))
    seeds = curves.span(len(run.config["training"]["seeds"]) for run in runs)
    note = (
        "Wall-clock time of whole runs, evaluations included, extrapolated to 1M env steps; time "
        "up to the second evaluation, where programs are compiled, not counted. Seeds in one "
        f"program: {seeds}. {_POINTS_NOTE} Runs that shared a machine slowed each other."
    )
    return draws, [note]


def _draw_points(
    axes: Axes, points: Points, labels: tuple[str, str, str], bottom: float | None = None
) -> None:
    """The number of each run over the setting, on a logarithmic axis, and the line between."""
    colour, settings, middle = style.colour_of("dime"), list(points), []
    for setting, numbers in points.items():
        series = series_of([{0: float(number)} for number in numbers], labels[0])
        middle.append(float(np.mean(series.lines)))
        many = [setting] * len(numbers)
        axes.plot(many, numbers, "o", color=colour, markersize=4, alpha=0.55, zorder=4)
        if series.band is not None:
            axes.plot(many[:2], series.band[:, 0], color=colour, linewidth=4, alpha=0.25)
    axes.plot(settings, middle, "-", color=colour, linewidth=1.6, zorder=3)
    axes.set_xscale("log")
    if min(settings) >= 1:  # a few numbers of denoising steps
        axes.set_xticks(settings, [f"{setting:g}" for setting in settings])
        axes.minorticks_off()
    style.plain_axes(axes, *labels)
    axes.set_ylim(bottom=bottom)


# ---- figure 7: the learnt diffusion of action dimensions over training


def _scales(runs: list[Run], _: Reference | None) -> Content:
    environment, *others = by_environment(runs)
    require(
        not others,
        f"The runs are on {environment}, {', '.join(others)}; action dimensions of several "
        "environments have nothing in common. Draw a figure for each.",
    )
    recorded: dict[str, list[dict[int, np.ndarray]]] = defaultdict(list)
    for run in runs:
        recorded[run.kind] += _recorded_scales(run)
    arrays = [scales for own in recorded.values() for one in own for scales in one.values()]
    action_dim, top = min(map(len, arrays)), 1.04 * max(scales.max() for scales in arrays)
    variants = style.variants_of((run.config["algorithm"], run.variant) for run in runs)
    names = {run.kind: (run.config["algorithm"], run.variant) for run in runs}
    looks = {kind: style.curve_style(*name, "stochastic", variants) for kind, name in names.items()}
    # of dog's 38 dimensions those of the paper
    shown: dict[int, dict[str, Series]] = {
        dim: {
            kind: series_of([{t: float(s[dim]) for t, s in h.items()} for h in histories], kind)
            for kind, histories in recorded.items()
        }
        for dim in range(0, action_dim, -(-action_dim // 4))
    }
    seeds = {kind: len(histories) for kind, histories in recorded.items()}
    counts = "; ".join(f"{kind}: {count}" for kind, count in seeds.items())
    caption = [
        f"Learnt diffusion on {environment}, with {action_dim}-dimensional actions: what "
        "the cosine profile is multiplied by to give the chain's step sizes, in latent units "
        "squared, as recorded in training.",
        f"Seeds: {counts}.{interval_note(seeds.values())}",
    ]
    if left_out := max(one.num_left_out for one in shown[0].values()):
        caption.append(f"{left_out} env steps left out, not recorded for all seeds.")
    return [
        partial(_draw_scales, dim=dim, by_kind=by_kind, looks=looks, top=top)
        for dim, by_kind in shown.items()
    ], caption


def _recorded_scales(run: Run) -> list[dict[int, np.ndarray]]:
    histories: dict[int, dict[int, np.ndarray]] = defaultdict(dict)
    for record in read_records(RunDirectory(run.folder).metrics_file):
        if "diffusion_scale" in record:
            scales = np.asarray(record["diffusion_scale"], np.float64)
            histories[record["seed"]][record["env_step"]] = scales
    require(
        bool(histories),
        f"{run.folder} has no diffusion_scale in its metrics.jsonl: it has made no updates yet, or "
        f"{run.config['algorithm']} does not learn one, as dime and dime-gb do.",
    )
    return list(histories.values())


def _draw_scales(
    axes: Axes, dim: int, by_kind: dict[str, Series], looks: dict[str, Any], top: float
) -> None:
    for kind, series in by_kind.items():
        style.draw_series(axes, series, kind, looks[kind])
    style.plain_axes(axes, f"action dimension {dim}", "env steps", "diffusion scale")
    axes.set_ylim(0.0, top)
    style.env_step_axis(axes)


# ---- figure 1: chains of a one-dimensional policy at several fixed temperatures

NUM_CHAINS = 50_000
"""Per run: the histogram's own noise is then a total variation of about 0.01."""


class TemperatureChains(NamedTuple):
    """The chains of a run on the bandit; their density is exp(reward / temperature)."""

    temperature: float
    source: str  # run, seed and env step
    prior_std: float  # in latent units
    chains: policy.StateView


def _temperature_chains(runs: list[Run], _: Reference | None) -> Content:
    chains = sorted((chains_of(run.folder) for run in runs), key=lambda one: one[:2])
    listed = "; ".join(f"{one.temperature:g}: {one.source}" for one in chains)
    caption = [
        f"DIME on {BANDIT} at fixed temperatures, stochastic actions, {NUM_CHAINS} chains "
        "each of the newest checkpoint's policy. The reward's exponential is known in closed form; "
        "total variation: between the last actions and it, 0 to 1.",
        LINE_NOTE,
        f"Runs by temperature: {listed}.",
    ]
    return [partial(_draw_chains, run=one) for one in chains], caption


def chains_of(run_dir: Path) -> TemperatureChains:
    """The chains of a run's first seed.

    Raises `DimeError` unless it is a run of DIME on the bandit with a fixed temperature.
    """
    restored = restore_agents(run_dir)
    require(
        restored.config.env == BANDIT,
        f"{run_dir} is a run on {restored.config.env}; the chains of several temperatures are "
        f"drawn on {BANDIT}, where the right answer is known.",
    )
    agent = policy.DimeAgent.of(restored, 0, run_dir)
    require(
        not agent.config.temperature.learn,
        f"The temperature of {run_dir} was learnt. Train with a fixed one: dime train "
        f"{BANDIT} --preset laptop --temperature.initial T --no-temperature.learn",
    )
    obs = make(BANDIT).reset(0)
    actions, _ = policy.draw_chains(agent.state.policy.module, obs, NUM_CHAINS, jax.random.key(0))
    density = policy.boltzmann(two_mode_log_density(policy.bin_centres(1)), agent.temperature)
    return TemperatureChains(
        agent.temperature,
        f"{run_dir.resolve().name}, seed {restored.seeds[0]}, "
        f"{restored.checkpoint.env_step} env steps",
        agent.config.policy.prior_std,
        policy.StateView(0, policy.masses(actions), actions[:, :NUM_PATHS].copy(), density),
    )


def _draw_chains(axes: Axes, run: TemperatureChains) -> None:
    draw_line_chain(axes, run.chains, run.prior_std, "exp(reward / temperature)")
    title = f"temperature {run.temperature:g}: total variation {run.chains.distance:.2f}"
    axes.set_title(title, fontsize=10)
    axes.set_ylabel("action")


# ---- comparison: every algorithm on small tasks, and on the two-mode bandit against its density

_NUM_ACTIONS = 4_000
_BANDIT_NOTE = (
    f"Histograms: {_NUM_ACTIONS} actions of each algorithm's newest checkpoint (first seed) on "
    "the two-mode bandit. Black line: exp(reward / temperature), normalised, at the run's "
    "fixed temperature; without one at 1, where it is the density whose logarithm is the "
    "reward: such algorithms lower their temperature, or have none, and one mode is enough."
)


def _comparison(runs: list[Run], _: Reference | None) -> Content:
    draws, caption = _curves(runs, None)
    draws += [partial(_draw_histogram, run=run) for run in runs if run.environment == BANDIT]
    return draws, [*caption, _BANDIT_NOTE]


def _draw_histogram(axes: Axes, run: Run) -> None:
    """Actions in the mode that draws plainly from the policy, if there is one."""
    algorithm = ALGORITHMS[run.config["algorithm"]]
    mode = "stochastic" if "stochastic" in algorithm.modes else algorithm.official_mode
    obs = np.zeros((_NUM_ACTIONS, 1), np.float32)
    actions = np.asarray(load_policy(run.folder, mode=mode)(obs))[:, 0]
    title, temperature = f"{algorithm.name}, {mode.replace('_', ' ')}", 1.0
    settings = flatten(run.config)
    if not settings.get("settings.temperature.learn", True):
        temperature = float(settings[_TEMPERATURE])
        title += f", temperature {temperature:g}"
    colour = style.colour_of(algorithm.name)
    bins = {"bins": 60, "range": (-1.0, 1.0), "density": True}
    axes.hist(actions, **bins, color=colour, alpha=0.6, zorder=2)
    grid = np.linspace(-1.0, 1.0, 401)
    exact = np.exp(two_mode_log_density(grid) / temperature)
    exact /= np.trapezoid(exact, grid)
    axes.plot(grid, exact, color="black", linewidth=1.2, zorder=3)
    axes.set_ylim(0.0, min(6.0, 2.2 * float(exact.max())))
    style.plain_axes(axes, title, "action", "density")


# ---- figure 5 and table 1: the environments, pictured, with their sizes


class Portrait(NamedTuple):
    """An environment's sizes in words, and its first frame or the reason why there is none."""

    sizes: str
    frame: np.ndarray | None  # uint8 (height, width, 3)
    reason: str = ""


def gallery_figure(environments: Iterable[str] = PAPER_ENVIRONMENTS) -> Figure:
    """The first frame of each environment, with the sizes of observations and actions.

    An environment that cannot be made or rendered here has a panel with the reason.
    """
    draws: list[style.Draw] = [
        partial(_draw_portrait, name=name, portrait=portrait_of(name)) for name in environments
    ]
    caption = [
        "The first frame of the episode with seed 0, rendered by the environment with its own "
        "camera; length of an observation and of an action, as the algorithms see them."
    ]
    return style.make_figure(draws, caption, columns=min(5, len(draws)), panel_size=(2.5, 2.5))


def portrait_of(name: str) -> Portrait:
    """Makes, resets and renders an environment; whatever it raises is the reason for no picture."""
    sizes = "not made here"
    try:
        with closing(make(name, render=True)) as environment:
            sizes = f"observation {environment.obs_dim}, action {environment.action_dim}"
            environment.reset(0)
            return Portrait(sizes, environment.render())
    except Exception as error:  # the environments' own are of any kind
        return Portrait(sizes, None, describe(error).removeprefix("DimeError: "))


def _draw_portrait(axes: Axes, name: str, portrait: Portrait) -> None:
    axes.set_title(f"{name}\n{portrait.sizes}", fontsize=8, parse_math=False)
    axes.set(xticks=(), yticks=())
    axes.spines[:].set_color("#999999")
    if portrait.frame is not None:
        axes.imshow(portrait.frame)
        return
    axes.set(aspect="equal", facecolor="#f4f4f4")
    text = textwrap.fill(textwrap.shorten(portrait.reason, 320, placeholder=" ..."), 34)
    axes.text(0.5, 0.5, text, fontsize=6, ha="center", va="center", parse_math=False)


FIGURES: dict[str, tuple[tuple[str, ...], Callable[..., Content] | None]] = {
    "1": (("figure_1",), _temperature_chains),
    "2a": (("figure_2ab",), _curves),
    "2b": (("figure_2ab",), _final_scores),
    "2c": (("figure_2cd",), _curves),
    "2d": (("figure_2cd",), _curves),
    "3a": (("figure_3ab",), _curves),
    "3b": (("figure_3ab",), _wall_clock),
    "3c": (("figure_3cd",), _curves),
    "3d": (("figure_3cd",), _curves),
    "4": (("figure_4",), _curves),
    "5": ((), None),
    "6": (("figure_6", "figure_6c"), _curves),
    "7": (("figure_7",), _scales),
    "8": (("figure_8",), _curves),
    "9": (("figure_9",), _curves),
    "comparison": (("comparison", "two_modes"), _comparison),
}
"""The studies whose runs a figure shows, and its content; 5 has neither, "comparison" is ours."""
