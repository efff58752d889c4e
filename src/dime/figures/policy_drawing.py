"""Pictures of a trained diffusion policy: what `dime inspect` writes."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import imageio
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dime.deploy.evaluate import refuse_unless_writable, write_video
from dime.errors import require
from dime.figures import policy
from dime.figures.policy import InspectOptions, PolicyView, StateView, view_policy
from dime.figures.style import Draw, check_output, make_figure, open_frame, save, writing

# From white to a blue on which lines are still visible; lightness falls evenly.
SHADES = LinearSegmentedColormap.from_list("dime", ["#ffffff", "#b5d4ea", "#6baed6", "#2f7ab8"])
TARGET, PATH, DARK, FILL, GREY = "#8c2200", "#111111", "#0b4a86", "#9ecae1", "#c8c8c8"
ENCLOSED = 0.5, 0.9  # shares of exp(Q / temperature) that contours enclose
NUM_PATHS = 15  # chains drawn one by one over a heat map
FRAMES_PER_SECOND = 4
NUM_LAST_FRAMES = 8  # how often the last denoising step is shown before the animation repeats

_SIDE = 0.32  # width of a side panel, as a share of the chain's length
_DARKEST_ON_LINE = 0.97  # share of a line's bins that are lighter than the darkest shade
_DARKEST = 0.995  # share of a plane's bins that are lighter than the darkest shade

LINE_NOTE = (
    "Middle: share of chains per bin and denoising step, dark is many; "
    f"{NUM_PATHS} paths. Left: the prior, tanh of a Gaussian, root scale. Right: histogram "
    "of the last actions and the density that they should have."
)
_CONTOURS = "Contours enclose {:.0%} and {:.0%} of exp(Q / temperature).".format(*ENCLOSED)
_PLANE_NOTE = (
    "Blue: share of chains per bin, dark is many (root scale), each panel by itself; the last "
    f"column is exp(Q / temperature). {_CONTOURS}"
)


def inspect_policy(
    run_dir: str | Path, output_dir: str | Path, options: InspectOptions | None = None
) -> list[Path]:
    """Draws what a run's policy does in states of one episode, played with stochastic actions.

    - `chains`: the chains' marginals by denoising step beside exp(Q / temperature), with Q as the
      policy's loss has it and the temperature of the checkpoint;
    - `bounds`: the entropy bound along the episode, the learnt diffusion scales, the step sizes;
    - `animation`: the chains on their way from the prior to actions.

    The episode is the first one of the seed's evaluation at that env step.

    Args:
        run_dir: folder of a run of `dime` or `dime-gb`.
        output_dir: folder for the pictures; created if missing.
        options: what is drawn, and in which formats.

    Returns:
        The files written.

    Raises:
        DimeError: not a run of DIME, no checkpoint or a damaged one, an action dimension or a
            seed that there is not, or the pictures cannot be written.
    """
    options = options or InspectOptions()
    folder = Path(output_dir)
    chains = check_output(folder / f"chains{options.figure_suffix}")
    bounds = check_output(folder / f"bounds{options.figure_suffix}")
    animation = folder / f"animation{options.animation_suffix}"
    require(
        animation.suffix in (".gif", ".mp4"),
        f"An animation ends in .gif or .mp4, got {animation.name}.",
    )
    with writing(animation):  # the folder is there before the slow part begins
        if animation.suffix == ".mp4":
            refuse_unless_writable(animation)
    view = view_policy(run_dir, options)
    save(chains_figure(view), chains)
    save(bounds_figure(view), bounds)
    with writing(animation):
        if animation.suffix == ".mp4":
            write_video(animation, frames(view), FRAMES_PER_SECOND)
        else:
            pictures: list[Any] = list(frames(view))
            imageio.mimwrite(animation, pictures, duration=1000 / FRAMES_PER_SECOND, loop=0)
    return [chains, bounds, animation]


def chains_figure(view: PolicyView) -> Figure:
    """The chains' marginals by denoising step beside exp(Q / temperature).

    On a line one panel per state has it all; on a plane a row per state has some of the steps.
    """
    caption = [
        f"{about(view)}; {policy.NUM_CHAINS} chains of each state. Action dimensions: "
        f"{' and '.join(map(str, view.plane))} of {view.action_dim}."
    ]
    if view.action_dim > len(view.plane):
        caption.append(
            "exp(Q / temperature) is a slice: the other dimensions are at the mean of the last "
            "actions. The chains' shares are marginals over these dimensions, so the two need not "
            "agree."
        )
    if len(view.plane) == 1:
        draws: list[Draw] = [partial(_draw_line, view=view, state=state) for state in view.states]
        return make_figure(draws, [*caption, LINE_NOTE], panel_size=(4.4, 3.4))
    columns, caption = len(shown_steps(len(view.step_sizes))) + 1, [*caption, _PLANE_NOTE]
    return make_figure(_plane_rows(view), caption, columns=columns, panel_size=(2.5, 2.4))


def about(view: PolicyView) -> str:
    """Which policy and which episode are drawn."""
    return (
        f"{view.source}; temperature {view.temperature:.3g}. One episode with stochastic actions "
        f"(env steps: {len(view.obs)}, return {view.episode_return:.4g})"
    )


def shown_steps(num_steps: int) -> list[int]:
    """The denoising steps that have a panel: the prior, some, the action."""
    return sorted({0, num_steps // 2, num_steps - num_steps // 4, num_steps})


def _draw_line(axes: Axes, view: PolicyView, state: StateView) -> None:
    draw_line_chain(axes, state, view.prior_std, "exp(Q / temperature)")
    title = f"env step {state.env_step}"
    if view.action_dim == 1:
        title += f": total variation {state.distance:.2f}"
    axes.set_title(title, fontsize=10)
    axes.set_ylabel(f"action {view.plane[0]}")


def draw_line_chain(axes: Axes, state: StateView, prior_std: float, density_name: str) -> None:
    """Draws a chain from its prior on the left to its actions on the right."""
    mass, edges = state.mass, policy.bin_edges(1)
    steps = len(mass) - 1
    side, gap = _SIDE * steps, 0.03 * steps
    darkest = max(float(np.quantile(mass, _DARKEST_ON_LINE)), 2.5 * mass[0].mean())
    norm, columns = PowerNorm(0.7, 0.0, darkest), np.arange(steps + 2) - 0.5
    axes.pcolormesh(columns, edges, mass.T, cmap=SHADES, norm=norm, rasterized=True)
    axes.plot(state.points[:, :NUM_PATHS, 0], color=PATH, linewidth=0.6, alpha=0.6)
    left, right = -0.5 - gap, steps + 0.5 + gap
    prior, expected = policy.prior_masses(prior_std), state.density / state.density.sum()
    scale = side / max(expected.max(), mass[-1].max())
    look = {"orientation": "horizontal", "fill": True}
    widths = side * np.sqrt(prior / prior.max())
    axes.stairs(left - widths, edges, baseline=left, color=GREY, label="prior", **look)
    actions = right + scale * mass[-1]
    axes.stairs(actions, edges, baseline=right, color=FILL, label="last actions", **look)
    style = {"color": TARGET, "linewidth": 1.4, "label": density_name}
    axes.plot(right + scale * expected, policy.bin_centres(1), **style)
    axes.set(xlim=(left - 1.05 * side, right + 1.05 * side), ylim=(-1.0, 1.0))
    axes.set(xlabel="denoising step", xticks=sorted({0, steps // 2, steps}))
    axes.set_yticks((-1.0, -0.5, 0.0, 0.5, 1.0))
    open_frame(axes)


def _plane_rows(view: PolicyView) -> list[Draw]:
    """Row by row, the panels of each state: some denoising steps, then exp(Q / temperature)."""
    shown = shown_steps(len(view.step_sizes))
    titles = [*(f"denoising step {number}" for number in shown), "exp(Q / temperature)"]
    x_label, y_label = (f"action {dim}" for dim in view.plane)
    draws: list[Draw] = []
    for state in view.states:
        masses = [*state.mass[shown], state.density / state.density.sum()]
        first, last = state is view.states[0], state is view.states[-1]
        for column, (mass, title) in enumerate(zip(masses, titles, strict=True)):
            labels = {
                "title": title if first else "",
                "xlabel": x_label if last else "",
                "ylabel": "" if column else f"env step {state.env_step}\n{y_label}",
            }
            draws.append(partial(_draw_plane, mass=mass, density=state.density, labels=labels))
    return draws


def _draw_plane(axes: Axes, mass: np.ndarray, density: np.ndarray, labels: dict[str, str]) -> None:
    edges = policy.bin_edges(2)
    darkest = np.quantile(mass, _DARKEST) or mass.max()  # if all is in few bins, the fullest
    norm = PowerNorm(0.5, 0, darkest)
    axes.pcolormesh(edges, edges, mass.T, cmap=SHADES, norm=norm, rasterized=True)
    _draw_contours(axes, density)
    axes.set(**labels)
    axes.title.set_fontsize(9)


def _draw_contours(axes: Axes, density: np.ndarray) -> None:
    """Contours on the whole box of actions; if bins are too coarse for any, the highest bin."""
    centres = policy.bin_centres(2)
    levels = policy.levels_enclosing(density, ENCLOSED)
    if levels:
        axes.contour(centres, centres, density.T, levels, colors=TARGET, linewidths=1.1)
    else:
        x, y = np.unravel_index(density.argmax(), density.shape)
        axes.plot(centres[x], centres[y], "x", color=TARGET)
    axes.set(xlim=(-1.0, 1.0), ylim=(-1.0, 1.0), aspect="equal")
    axes.set(xticks=(-1, 0, 1), yticks=(-1, 0, 1))


def bounds_figure(view: PolicyView) -> Figure:
    """The entropy bound along the episode, the learnt diffusion scales, the step sizes."""
    uniform = view.action_dim * np.log(2.0)
    caption = [
        f"{about(view)}.",
        "Entropy bound: -log_prob of the chain (denoising against noising kernels, with the prior "
        "and the tanh), nats for the whole action; its expectation is at most the policy's "
        f"entropy. Line: mean over {policy.NUM_BOUND_CHAINS} chains of each of "
        f"{len(view.bounds[0])} states; bars: two standard errors. Uniform actions have "
        f"{uniform:.3g}. Vertical lines: the states whose chains are drawn.",
        "Diffusion scale: what the cosine profile is multiplied by to give the step sizes "
        "(integrated diffusion, latent units squared), learnt per action dimension; dark: the "
        "dimensions whose chains are drawn.",
    ]
    draws: list[Draw] = [
        partial(draw, view=view) for draw in (_draw_bounds, _draw_scales, _draw_step_sizes)
    ]
    return make_figure(draws, caption)


def _draw_bounds(axes: Axes, view: PolicyView) -> None:
    at, mean, error = view.bounds
    look = {"color": DARK, "ecolor": FILL, "linewidth": 1.4, "elinewidth": 3.0}
    axes.errorbar(at, mean, 2.0 * error, **look, marker=".", markersize=3)
    if view.target_bound is not None:
        label = "the temperature's target, for the mean over states"
        axes.axhline(view.target_bound, label=label, color=TARGET, linewidth=1.2, linestyle="--")
    for state in view.states:
        axes.axvline(state.env_step, color=GREY, linewidth=0.8, zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.set(xlabel="env step of the episode", ylabel="entropy bound (nats)")
    open_frame(axes)


def _draw_scales(axes: Axes, view: PolicyView) -> None:
    count = len(view.diffusion_scale)
    colours = [DARK if dim in view.plane else FILL for dim in range(count)]
    axes.bar(range(count), view.diffusion_scale, color=colours)
    label = "diffusion scale before training"
    axes.axhline(view.initial_scale, label=label, color="#444444", linewidth=1.2, linestyle=":")
    axes.set_xticks(range(0, count, -(-count // 10)))
    margin = max(0.8, 3.0 - 0.5 * count)  # keeps a few bars from filling the panel
    axes.set(xlabel="action dimension", ylabel="diffusion scale")
    axes.set_xlim(-margin, count - 1 + margin)
    open_frame(axes)


def _draw_step_sizes(axes: Axes, view: PolicyView) -> None:
    for dim, sizes in enumerate(view.step_sizes.T):
        shown = dim in view.plane
        style = {"color": DARK if shown else FILL, "zorder": 3 if shown else 2}
        axes.plot(sizes, linewidth=1.4 if shown else 0.7, marker=".", markersize=3, **style)
    axes.set(yscale="log", xlabel="denoising step", ylabel="step size")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    open_frame(axes)


def frames(view: PolicyView) -> Iterator[np.ndarray]:
    """Pictures, uint8 (height, width, 3) of even size: one per denoising step, then the last."""
    draw, what = _frame_of_plane, f"Dots: {policy.NUM_POINTS} chains. {_CONTOURS}"
    if len(view.plane) == 1:
        draw, what = _frame_of_line, "Blue: share of chains per bin, relative to the fullest."
    draws: list[Draw] = [partial(draw, view=view, state=state, step=0) for state in view.states]
    figure = make_figure(draws, [f"{about(view)}. {what}"], panel_size=(3.2, 3.2))
    figure.set_dpi(100)
    canvas = FigureCanvasAgg(figure)
    last = len(view.step_sizes)
    for step in range(last + 1):
        for axes, state in zip(figure.axes, view.states, strict=True):
            axes.clear()
            draw(axes, view, state, step)
            title = f"env step {state.env_step}, denoising step {step} of {last}"
            axes.set_title(title, fontsize=9)
        canvas.draw()
        picture = np.asarray(canvas.buffer_rgba())[..., :3]
        even = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2].copy()
        for _ in range(NUM_LAST_FRAMES if step == last else 1):
            yield even


def _frame_of_plane(axes: Axes, view: PolicyView, state: StateView, step: int) -> None:
    dots = {"color": DARK, "markersize": 4, "alpha": 0.55, "markeredgewidth": 0}
    axes.plot(*state.points[step].T, ".", **dots)
    _draw_contours(axes, state.density)
    x, y = view.plane
    axes.set(xlabel=f"action {x}", ylabel=f"action {y}")


def _frame_of_line(axes: Axes, view: PolicyView, state: StateView, step: int) -> None:
    mass, expected = state.mass[step], state.density / state.density.max()
    axes.stairs(mass / mass.max(), policy.bin_edges(1), fill=True, color=FILL)
    axes.plot(policy.bin_centres(1), expected, color=TARGET, label="exp(Q / temperature)")
    axes.set(xlim=(-1.0, 1.0), ylim=(0.0, 1.1), yticks=())
    axes.set(xticks=(-1.0, -0.5, 0.0, 0.5, 1.0), xlabel=f"action {view.plane[0]}")
