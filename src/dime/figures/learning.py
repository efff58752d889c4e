"""The figures of runs: learning curves, and paths on the multi-goal plane."""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from dime.deploy.policy import load_policy
from dime.envs.registry import make_env
from dime.envs.tiny import MultiGoal
from dime.figures import style
from dime.figures.curves import MIN_RUNS, Panel, Reference, panels_of, read_reference, span
from dime.figures.runs import RunDirs, folders_of, read_runs, unevaluated_note
from dime.training.run_directory import RunDirectory

_REFERENCE_STYLE = {"color": "#555555", "linestyle": (0, (6, 1.5, 1, 1.5)), "zorder": 2.5}
_NUM_PATHS = 50
_PATHS_NOTE = (
    f"Paths: {_NUM_PATHS} stochastic episodes of the newest checkpoint's policy (first seed); "
    "those that reach no goal are black, dashed. Discs: goals, each with the number of episodes "
    "that reached it. Contours: reward of a position at zero action, without the goals' bonus."
)
ENVIRONMENT = "dime/MultiGoal-v0"

Paths = list[tuple[np.ndarray, int | None]]
"""Of each episode, its positions (steps + 1, 2), and the goal that it reached, None for none."""


def plot(
    run_dirs: RunDirs,
    output: str | Path,
    reference: str | Path | None = None,
    by: Iterable[str] = (),
) -> Path:
    """Draws score over env steps: a panel per environment, a curve per algorithm and action mode.

    A curve is the interquartile mean over seeds with its 95 % stratified bootstrap interval; with
    fewer than three seeds, each seed is drawn by itself. Runs of the same environment and
    algorithm are pooled. The score is the return; for MyoSuite's environments the success rate.
    A multi-goal run outside studies also has a panel with paths of its newest checkpoint's policy.

    Args:
        run_dirs: folders of runs or studies.
        output: the file; its suffix chooses the format (.png, .pdf, .svg, ...).
        reference: curves to draw beside them: "shipped" for the published ones of DIME, or a CSV
            file (`read_reference` says its columns).
        by: settings that separate runs of one algorithm, as "settings.discount".

    Returns:
        The file written.

    Raises:
        DimeError: a folder is not a run or has no evaluations yet, the reference or a checkpoint
            cannot be read, or the format cannot be written.
    """
    path = style.check_output(output)
    return style.save(plot_figure(run_dirs, reference, by), path)


def plot_figure(
    run_dirs: RunDirs, reference: str | Path | None = None, by: Iterable[str] = ()
) -> Figure:
    """The figure that `plot` writes."""
    runs = read_runs(run_dirs, by)
    panels, published = panels_of(runs), read_reference(reference)
    draws, captions = learning_panels(panels, published), learning_caption(panels, published)
    alone = [run.folder for run in runs if run.folder in folders_of(run_dirs)]
    for folder in (run.folder for run in runs if run.environment == ENVIRONMENT):
        if folder in alone and RunDirectory(folder).checkpoints.steps():
            paths = play_paths(load_policy(folder, mode="stochastic"), _NUM_PATHS)
            title = f"{ENVIRONMENT}: paths\n{folder.resolve().name}"
            draws.append(partial(draw_paths, paths=paths, title=title))
    captions += [_PATHS_NOTE] * (len(draws) > len(panels)) + unevaluated_note(run_dirs)
    return style.make_figure(draws, captions)


def learning_panels(panels: list[Panel], reference: Reference | None) -> list[style.Draw]:
    """What draws the curves of each panel."""
    variants = style.variants_of((c.algorithm, c.variant) for p in panels for c in p.curves)
    return [
        partial(_draw_panel, panel=panel, variants=variants, reference=reference)
        for panel in panels
    ]


def _draw_panel(
    axes: Axes, panel: Panel, variants: dict[str, list[str]], reference: Reference | None
) -> None:
    for curve in panel.curves:
        look = style.curve_style(curve.algorithm, curve.variant, curve.mode, variants)
        style.draw_series(axes, curve.series, curve.label, look)
    published = reference and reference.find(panel.environment, panel.metric)
    if reference is not None and published is not None:
        last = max(curve.last_step for curve in panel.curves)
        style.draw_series(axes, published.until(last), reference.name, _REFERENCE_STYLE)
        if last > 0:
            axes.set_xlim(-0.03 * last, 1.03 * last)
    style.plain_axes(axes, panel.environment, "env steps", style.METRIC_LABELS[panel.metric])
    if panel.metric == "success_rate":
        axes.set_ylim(-0.03, 1.03)
    style.env_step_axis(axes)


def learning_caption(panels: list[Panel], reference: Reference | None) -> list[str]:
    """The sentences that a reader of learning curves needs, one paragraph per item."""
    named = [(f"{curve.label} on {p.environment}", curve) for p in panels for curve in p.curves]
    counts = Counter(curve.series.num_runs or 0 for _, curve in named)
    usual = counts.most_common(1)[0][0]
    seeds = f"Seeds per curve: {usual}"
    for count in sorted(set(counts) - {usual}):
        odd = ", ".join(name for name, curve in named if curve.series.num_runs == count)
        seeds += f"; {count} in {odd}"
    episodes = set().union(*(curve.num_episodes for _, curve in named))
    modes = " or ".join(dict.fromkeys(curve.mode.replace("_", " ") for _, curve in named))
    means = {"return": "mean return", "success_rate": "share solved at the last step"}
    metrics = {panel.metric for panel in panels}
    scores = " or ".join(text for metric, text in means.items() if metric in metrics)
    paragraphs = [
        f"{seeds}.{interval_note(counts)}",
        f"Score of a seed: {scores} of {span(episodes)} whole "
        f"episode{'' if episodes == {1} else 's'} per evaluation "
        f"with {modes} actions, on separate evaluation environments; no smoothing.",
    ]
    if reference is not None:
        text = f"{reference.name}: {reference.note}; interquartile mean and 95 % interval."
        missing = [p.environment for p in panels if not reference.find(p.environment, p.metric)]
        paragraphs.append(f"{text} None for {', '.join(missing)}." if missing else text)
    remarks = [f"{name}: {'; '.join(curve.remarks)}." for name, curve in named if curve.remarks]
    return [*paragraphs, " ".join(remarks)] if remarks else paragraphs


def interval_note(counts: Iterable[int]) -> str:
    """What line and band are, for curves of these numbers of seeds."""
    band = (
        " Line: interquartile mean over seeds; band: 95 % stratified bootstrap interval "
        "(2000 resamples)."
    )
    thin = f" With fewer than {MIN_RUNS} seeds each is a thin line, with no interval."
    return band * (max(counts) >= MIN_RUNS) + thin * (min(counts) < MIN_RUNS)


def play_paths(policy: Callable[[np.ndarray], np.ndarray], num_episodes: int) -> Paths:
    """Plays episodes side by side, with the seeds 0, 1, ...; one call of the policy per step."""
    environments = [make_env(ENVIRONMENT) for _ in range(num_episodes)]
    starts = [env.reset(seed=seed) for seed, env in enumerate(environments)]
    obs = np.stack([start for start, _ in starts])
    positions = [[info["position"]] for _, info in starts]
    reached = np.zeros(num_episodes, bool)
    running = np.ones(num_episodes, bool)
    while running.any():
        actions = policy(obs)
        for i in np.flatnonzero(running):
            obs[i], _, terminated, truncated, info = environments[i].step(actions[i])
            positions[i].append(info["position"])
            reached[i] = info["success"]
            running[i] = not (terminated or truncated)
    ends = np.stack([path[-1] for path in positions])
    nearest = ((ends[:, None] - MultiGoal.goals) ** 2).sum(axis=-1).argmin(axis=-1)
    return [
        (np.stack(path), int(goal) if success else None)
        for path, goal, success in zip(positions, nearest, reached, strict=True)
    ]


def draw_paths(axes: Axes, paths: Paths, title: str) -> None:
    """Contours of the reward, goals with the number of episodes that reached them, paths."""
    limit, grid = MultiGoal.limit, np.linspace(-MultiGoal.limit, MultiGoal.limit, 141)
    plane = np.stack(np.meshgrid(grid, grid), axis=-1)  # (141, 141, 2)
    offset = plane[:, :, None] - MultiGoal.goals  # (141, 141, goals, 2)
    reward = -MultiGoal.reward_scale * (offset**2).sum(axis=-1).min(axis=-1)
    levels = [-5.0, -4.0, -3.0, -2.0, -1.5, -1.0, -0.5]
    look = {"colors": "#8c8c8c", "linewidths": 0.6, "linestyles": "solid", "zorder": 1}
    axes.clabel(axes.contour(grid, grid, reward, levels, **look), levels[1:], fontsize=6, fmt="%g")
    for position, goal in paths:
        colour, dashes = ("#333333", "--") if goal is None else ("#0072B2", "-")
        look = {"color": colour, "linestyle": dashes, "linewidth": 0.8, "alpha": 0.6, "zorder": 3}
        axes.plot(*position.T, **look, marker=".", markersize=3, markevery=[-1])
    for number, centre in enumerate(MultiGoal.goals):
        disc = Circle(tuple(centre), MultiGoal.goal_radius, facecolor="#D55E00", alpha=0.35)
        axes.add_patch(disc)
        x, y = 1.29 * centre  # outwards
        count = sum(goal == number for _, goal in paths)
        axes.text(x, y, str(count), fontsize=9, ha="center", va="center", zorder=5)
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.set(xlabel="x", ylabel="y", aspect="equal", xticks=(-5, 0, 5), yticks=(-5, 0, 5))
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit))
