"""The figures of runs: learning curves, and paths on the multi-goal plane."""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from dime.deploy.policy import load_policy
from dime.envs.registry import make_env
from dime.envs.tiny import MultiGoal
from dime.figures import style
from dime.figures.curves import (
    MIN_RUNS,
    Panel,
    Reference,
    enumerated,
    panels_of,
    read_reference,
    span,
)
from dime.figures.runs import RunDirs, read_runs, studies_among, unevaluated_note
from dime.training.run_directory import RunDirectory

_REFERENCE_STYLE = {"color": "#555555", "linestyle": (0, (6, 1.5, 1, 1.5)), "zorder": 2.5}
_NUM_PATHS = 50

ENVIRONMENT = "dime/MultiGoal-v0"
GOAL_NAMES = ("right", "left", "top", "bottom")  # of `MultiGoal.goals`, in their order

_PATHS_NOTE = (
    "Discs: goals, each with the number of episodes that reached it. Contours: reward of a "
    "position at zero action, without the goals' bonus. Paths that reach no goal: black, dashed."
)
_PATH, _GOAL, _CONTOUR, _LOST = "#0072B2", "#D55E00", "#8c8c8c", "#333333"
_COUNT_DISTANCE = 1.45  # of a count from its goal's centre, outwards

BatchPolicy = Callable[[np.ndarray], np.ndarray]
"""Observations (episodes, 2) to actions (episodes, 2), in the environment's own units."""


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
    in_studies = {trial for study in studies_among(run_dirs) for trial in study.begun}
    multi_goal = [r.folder for r in runs if r.environment == ENVIRONMENT]
    for folder in (folder for folder in multi_goal if folder not in in_studies):
        name = folder.resolve().name
        if not RunDirectory(folder).checkpoints.steps():
            captions.append(f"No paths of {name}: no checkpoint yet.")
            continue
        paths = play_paths(load_policy(folder, mode="stochastic"), _NUM_PATHS)
        draws.append(partial(draw_paths, paths=paths, title=f"{ENVIRONMENT}: paths\n{name}"))
        captions.append(paths_caption(paths, name))
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
    """Draws the curves of one environment, and the reference as far as they reach."""
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
    of_several = len(panels) > 1
    named = [
        (f"{curve.label} on {panel.environment}" if of_several else curve.label, curve)
        for panel in panels
        for curve in panel.curves
    ]
    counts = Counter(curve.series.num_runs or 0 for _, curve in named)
    usual = counts.most_common(1)[0][0]
    seeds = f"Seeds per curve: {usual}"
    for count in sorted(set(counts) - {usual}):
        odd = enumerated(name for name, curve in named if curve.series.num_runs == count)
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
        known = [reference.find(panel.environment, panel.metric) for panel in panels]
        missing = [p.environment for p, series in zip(panels, known, strict=True) if series is None]
        paragraphs.append(f"{text} None for {enumerated(missing)}." if missing else text)
    remarks = [f"{name}: {'; '.join(curve.remarks)}." for name, curve in named if curve.remarks]
    return [*paragraphs, " ".join(remarks)] if remarks else paragraphs


def interval_note(counts: Iterable[int]) -> str:
    """What line and band are, for curves of these numbers of seeds."""
    text = ""
    if max(counts) >= MIN_RUNS:
        text += (
            " Line: interquartile mean over seeds; band: 95 % stratified bootstrap interval "
            "(2000 resamples)."
        )
    if min(counts) < MIN_RUNS:
        text += f" With fewer than {MIN_RUNS} seeds each is a thin line, with no interval."
    return text


class Path2D(NamedTuple):
    """An episode: its positions (steps + 1, 2), and which goal it reached, None for none."""

    position: np.ndarray
    goal: int | None


def play_paths(policy: BatchPolicy, num_episodes: int) -> list[Path2D]:
    """Plays episodes side by side, with the seeds 0, 1, ...; one call of the policy per step.

    >>> [path.goal for path in play_paths(lambda obs: np.full_like(obs, [1.0, 0.0]), 2)]
    [0, 0]
    """
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
        Path2D(np.stack(path), int(goal) if success else None)
        for path, goal, success in zip(positions, nearest, reached, strict=True)
    ]


def count_goals(paths: list[Path2D]) -> list[int]:
    """How many episodes reached each of the four goals."""
    return [sum(path.goal == goal for path in paths) for goal in range(len(GOAL_NAMES))]


def paths_caption(paths: list[Path2D], run: str) -> str:
    """The sentences under the panel."""
    counts = count_goals(paths)
    goals = ", ".join(f"{name} {n}" for name, n in zip(GOAL_NAMES, counts, strict=True))
    return (
        f"Paths of {run}: {len(paths)} stochastic episodes of the newest checkpoint's policy "
        f"(first seed). Episodes that reached a goal: {goals}; none: {len(paths) - sum(counts)}."
    )


def draw_paths(axes: Axes, paths: list[Path2D], title: str) -> None:
    """Contours of the reward, goals with the number of episodes that reached them, paths."""
    limit, grid = MultiGoal.limit, np.linspace(-MultiGoal.limit, MultiGoal.limit, 141)
    plane = np.stack(np.meshgrid(grid, grid), axis=-1)  # (141, 141, 2)
    offset = plane[:, :, None] - MultiGoal.goals  # (141, 141, goals, 2)
    reward = -MultiGoal.reward_scale * (offset**2).sum(axis=-1).min(axis=-1)
    levels = [-5.0, -4.0, -3.0, -2.0, -1.5, -1.0, -0.5]
    look = {"colors": _CONTOUR, "linewidths": 0.6, "linestyles": "solid", "zorder": 1}
    axes.clabel(axes.contour(grid, grid, reward, levels, **look), levels[1:], fontsize=6, fmt="%g")
    for path in paths:
        colour, dashes = (_LOST, "--") if path.goal is None else (_PATH, "-")
        look = {"color": colour, "linestyle": dashes, "linewidth": 0.8, "alpha": 0.6, "zorder": 3}
        axes.plot(*path.position.T, **look)
        axes.plot(*path.position[-1:].T, ".", color=colour, markersize=3, zorder=4)
    for goal, count in zip(MultiGoal.goals, count_goals(paths), strict=True):
        disc = Circle(tuple(goal), MultiGoal.goal_radius, facecolor=_GOAL, alpha=0.35, zorder=2)
        axes.add_patch(disc)
        x, y = goal + _COUNT_DISTANCE * goal / np.linalg.norm(goal)
        axes.text(x, y, str(count), fontsize=9, ha="center", va="center", zorder=5)
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.set(xlabel="x", ylabel="y", aspect="equal", xticks=(-5, 0, 5), yticks=(-5, 0, 5))
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit))
