"""Paths of a policy on the multi-goal plane: does it still go to all four goals?"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle

from dime.envs.registry import make_env
from dime.envs.tiny import MultiGoal
from dime.errors import require

ENVIRONMENT = "dime/MultiGoal-v0"
GOAL_NAMES = ("right", "left", "top", "bottom")
"""Of `MultiGoal.goals`, in their order."""

PATHS_NOTE = (
    "Discs: goals, each with the number of episodes that reached it. Contours: reward of a "
    "position at zero action, without the goals' bonus. Paths that reach no goal: black, dashed."
)

BatchPolicy = Callable[[np.ndarray], np.ndarray]
"""Observations (episodes, 2) to actions (episodes, 2), in the environment's own units."""

_PATH, _GOAL, _CONTOUR, _LOST = "#0072B2", "#D55E00", "#8c8c8c", "#333333"
_COUNT_DISTANCE = 1.45  # of a count from its goal's centre, outwards


class Path2D(NamedTuple):
    """An episode: its positions (steps + 1, 2), and which goal it reached, None for none."""

    position: np.ndarray
    goal: int | None


def play_paths(policy: BatchPolicy, num_episodes: int) -> list[Path2D]:
    """Plays episodes side by side, with the seeds 0, 1, ...; one call of the policy per step.

    Raises:
        DimeError: fewer than one episode is asked for.

    >>> [path.goal for path in play_paths(lambda obs: np.full_like(obs, [1.0, 0.0]), 2)]
    [0, 0]
    """
    require(num_episodes >= 1, f"num_episodes is {num_episodes}; it must be at least 1.")
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
    return [_path(path, bool(success)) for path, success in zip(positions, reached, strict=True)]


def _path(positions: list[np.ndarray], success: bool) -> Path2D:
    position = np.stack(positions)
    nearest = int(((position[-1] - MultiGoal.goals) ** 2).sum(axis=1).argmin())
    return Path2D(position, nearest if success else None)


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
    _draw_reward(axes)
    for path in paths:
        colour, dashes = (_LOST, "--") if path.goal is None else (_PATH, "-")
        axes.plot(
            *path.position.T, color=colour, linestyle=dashes, linewidth=0.8, alpha=0.6, zorder=3
        )
        axes.plot(*path.position[-1:].T, ".", color=colour, markersize=3, zorder=4)
    for goal, count in zip(MultiGoal.goals, count_goals(paths), strict=True):
        disc = Circle(tuple(goal), MultiGoal.goal_radius, facecolor=_GOAL, alpha=0.35, zorder=2)
        axes.add_patch(disc)
        place = goal + _COUNT_DISTANCE * goal / np.linalg.norm(goal)
        axes.text(place[0], place[1], str(count), fontsize=9, ha="center", va="center", zorder=5)
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.set(xlabel="x", ylabel="y", aspect="equal")
    axes.set(xticks=(-5, 0, 5), yticks=(-5, 0, 5))
    axes.set(xlim=(-MultiGoal.limit, MultiGoal.limit), ylim=(-MultiGoal.limit, MultiGoal.limit))


def _draw_reward(axes: Axes) -> None:
    axis = np.linspace(-MultiGoal.limit, MultiGoal.limit, 141)
    plane = np.stack(np.meshgrid(axis, axis), axis=-1)  # (141, 141, 2)
    offset = plane[:, :, None] - MultiGoal.goals  # (141, 141, goals, 2)
    reward = -MultiGoal.reward_scale * (offset**2).sum(axis=-1).min(axis=-1)
    levels = [-5.0, -4.0, -3.0, -2.0, -1.5, -1.0, -0.5]
    lines = axes.contour(
        axis, axis, reward, levels, colors=_CONTOUR, linewidths=0.6, linestyles="solid", zorder=1
    )
    axes.clabel(lines, levels[1:], fontsize=6, fmt="%g")
