import subprocess
import sys

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

import dime
from dime.envs.tiny import MultiGoal
from dime.errors import DimeError
from dime.figures import learning
from dime.figures.curves import panels_of, read_reference
from dime.figures.learning import (
    draw_paths,
    play_paths,
    plot,
    plot_figure,
)
from dime.figures.runs import read_runs
from tests.figures.layout import caption
from tests.figures.make_run import make_run

MULTI_GOAL = "dime/MultiGoal-v0"
SIGNATURES = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


def bands(axes):
    return [item for item in axes.collections if isinstance(item, PolyCollection)]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.fixture
def stub_policy(monkeypatch):
    """A policy that walks to the right."""

    def load(run_dir, mode):
        assert mode == "stochastic"
        return lambda obs: np.full_like(obs, [1.0, 0.0])

    monkeypatch.setattr(learning, "load_policy", load)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_files_are_written_in_the_format_of_their_suffix(tmp_path, suffix):
    run = make_run(tmp_path / "run")
    path = tmp_path / "new" / f"curves.{suffix}"
    assert plot(run, path) == path
    assert path.read_bytes().startswith(SIGNATURES[suffix])


def test_what_is_drawn_is_what_the_records_say(tmp_path):
    run = make_run(tmp_path / "run", modes=("stochastic", "deterministic"))
    figure = plot_figure([run])
    (axes,) = figure.axes
    (panel,) = panels_of(read_runs(run))
    assert len(axes.lines) == len(panel.curves) == 2
    for line, band, curve in zip(axes.lines, bands(axes), panel.curves, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), curve.series.env_step)
        np.testing.assert_array_equal(line.get_ydata(), curve.series.lines[0])
        drawn = {tuple(vertex) for vertex in band.get_paths()[0].vertices}
        for end in curve.series.band:
            assert set(zip(curve.series.env_step, end, strict=True)) <= drawn
    assert axes.get_title() == "dm_control/walker-run"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("env steps", "return")
    assert legend(figure) == ["dime, stochastic", "dime, deterministic"]


def test_the_caption_says_seeds_interval_episodes_and_modes(tmp_path):
    run = make_run(tmp_path / "run", modes=("stochastic", "deterministic"), num_episodes=7)
    text = caption(plot_figure(run))
    assert "Seeds per curve: 3." in text
    assert "interquartile mean" in text and "95 % stratified bootstrap interval" in text
    assert "mean return of 7 whole episodes" in text
    assert "stochastic or deterministic actions" in text
    assert "no interval" not in text and "left out" not in text


def test_fewer_than_three_seeds_are_thin_lines_without_band_and_the_caption_says_so(tmp_path):
    run = make_run(tmp_path / "run", seeds=(0, 1))
    figure = plot_figure(run)
    (axes,) = figure.axes
    assert len(axes.lines) == 2 and not bands(axes)
    assert all(line.get_linewidth() < 1 for line in axes.lines)
    assert legend(figure) == ["dime, stochastic"]
    text = caption(figure)
    assert "Seeds per curve: 2. With fewer than 3 seeds" in text and "no interval" in text
    assert "interquartile" not in text


def test_the_caption_says_which_curves_have_other_numbers_of_seeds(tmp_path):
    runs = [
        make_run(tmp_path / "a", "dm_control/dog-run"),
        make_run(tmp_path / "b", "dm_control/dog-walk"),
        make_run(tmp_path / "c", "dm_control/dog-trot", seeds=(4,)),
    ]
    text = caption(plot_figure(runs))
    assert "Seeds per curve: 3; 1 in dime, stochastic on dm_control/dog-trot." in text


def test_the_caption_says_what_is_left_out_and_what_differs(tmp_path):
    runs = [
        make_run(tmp_path / "a", steps=(0, 500, 1000, 1500)),
        make_run(tmp_path / "b", steps=(0, 1000), settings={"discount": 0.9}, num_episodes=3),
    ]
    text = caption(plot_figure(runs))
    assert "2 of its env steps left out" in text
    assert "pooled runs differ in discount" in text
    assert "3 to 5 whole episodes" in text


def test_curves_differ_in_more_than_colour(tmp_path):
    modes = ("stochastic", "deterministic", "best_of_n")
    algorithms = ("dime", "crossq", "sac", "bro")
    runs = [make_run(tmp_path / name, algorithm=name, modes=modes) for name in algorithms]
    (axes,) = plot_figure(runs).axes
    looks = {(str(line._unscaled_dash_pattern), line.get_marker()) for line in axes.lines}
    assert len(looks) == len(axes.lines) == 12


def test_an_algorithm_has_the_same_colour_in_every_figure(tmp_path):
    one = make_run(tmp_path / "a")
    other = make_run(tmp_path / "b", "dm_control/dog-run", "crossq")
    (alone,) = plot_figure(one).axes[0].lines
    (together,) = plot_figure([other, one]).axes[1].lines
    assert alone.get_color() == together.get_color()


def test_the_reference_reaches_as_far_as_the_runs(tmp_path):
    run = make_run(tmp_path / "run", steps=(0, 50_000, 100_000))
    figure = plot_figure(run, "shipped")
    (axes,) = figure.axes
    published = read_reference("shipped").find("dm_control/walker-run", "return")
    (line,) = [line for line in axes.lines if line.get_label() == "DIME, published"]
    assert line.get_xdata().tolist() == [1, 24_000, 48_000, 72_000, 96_000, 120_000]
    np.testing.assert_array_equal(line.get_ydata(), published.lines[0, :6])
    assert axes.get_xlim()[1] < 120_000
    assert len(bands(axes)) == 2
    assert legend(figure)[-1] == "DIME, published"
    assert "10 seeds" in caption(figure) and "None for" not in caption(figure)


def test_environments_without_reference_are_named(tmp_path):
    figure = plot_figure(make_run(tmp_path / "run", "Humanoid-v5"), "shipped")
    assert len(figure.axes[0].lines) == 1
    assert "None for Humanoid-v5." in caption(figure)


def test_a_run_with_one_evaluation_is_drawn(tmp_path):
    run = make_run(tmp_path / "run", steps=(0,))
    plot(run, tmp_path / "one.png", "shipped")


def test_success_rates_have_their_own_axis(tmp_path):
    run = make_run(tmp_path / "run", "myoHandReachRandom-v0", success=True)
    figure = plot_figure(run)
    assert figure.axes[0].get_ylabel() == "success rate"
    assert "share solved at the last step of 5 whole episodes" in caption(figure)


def test_outputs_that_cannot_be_written_are_refused_before_anything_is_read(tmp_path):
    for name in ("curves.txt", "curves", "curves.pgf"):
        with pytest.raises(DimeError, match=r"\.png, \.pdf or \.svg"):
            plot(tmp_path / "nowhere", tmp_path / name)
    run = make_run(tmp_path / "run")
    (tmp_path / "file").touch()
    with pytest.raises(DimeError, match="cannot be written to"):
        plot(run, tmp_path / "file" / "curves.png")


def test_plot_adds_the_paths_of_multi_goal_runs(tmp_path, stub_policy):
    runs = [make_run(tmp_path / "first", MULTI_GOAL), make_run(tmp_path / "other")]
    (runs[0] / "checkpoints" / "step-000001500").mkdir(parents=True)
    figure = plot_figure(runs)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [MULTI_GOAL, "dm_control/walker-run", f"{MULTI_GOAL}: paths\nfirst"]
    assert [text.get_text() for text in figure.axes[2].texts[-4:]] == ["50", "0", "0", "0"]
    assert "Paths: 50 stochastic episodes of the newest checkpoint's policy" in caption(figure)
    assert plot(runs, tmp_path / "all.png").stat().st_size > 10_000


def test_plot_does_without_paths_where_there_is_no_checkpoint_yet(tmp_path, stub_policy):
    figure = plot_figure([make_run(tmp_path / "young", MULTI_GOAL)])
    assert len(figure.axes) == 1
    assert "Paths:" not in caption(figure)


def test_texts_do_not_overlap_the_panels(tmp_path):
    algorithms = [f"algorithm_{i}" for i in range(8)]
    environments = [f"dm_control/{name}" for name in ("dog-run", "dog-walk", "dog-trot")]
    runs = [make_run(tmp_path / f"{a}-{e[11:]}", e, a) for a in algorithms for e in environments]
    runs += [make_run(tmp_path / "WIDE", "COMMANDO/MMMMMM-v0", "MAXMMMM", seeds=(0,))]
    figure = plot_figure(runs, "shipped")
    figure.canvas.draw()
    legend_box = figure.legends[0].get_window_extent()
    caption_box = figure._supxlabel.get_window_extent()
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert caption_box.y1 <= box.y0 and box.y1 <= legend_box.y0
    assert figure.bbox.x0 <= caption_box.x0 and caption_box.x1 <= figure.bbox.x1
    assert figure.bbox.x0 <= legend_box.x0 and legend_box.x1 <= figure.bbox.x1


def test_long_labels_stay_within_the_figure(tmp_path):
    runs = [make_run(tmp_path / name, "Ant-v5", name) for name in ("a", "b" * 46, "c" * 46)]
    figure = plot_figure(runs)
    figure.canvas.draw()
    legend_box = figure.legends[0].get_window_extent()
    assert figure.bbox.x0 <= legend_box.x0 and legend_box.x1 <= figure.bbox.x1


def test_pyplot_and_its_global_state_are_not_used():
    code = "import sys, dime.figures.learning; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def outwards(obs):
    """Each episode along the axis that its start already leans to."""
    along = np.abs(obs) == np.abs(obs).max(axis=-1, keepdims=True)
    return (0.6 * np.sign(obs) * along).astype(np.float32)


def stay(obs):
    return np.zeros_like(obs)


def test_paths_end_at_the_goals_that_are_counted():
    paths = play_paths(outwards, 40)
    for position, goal in paths:
        distance = np.linalg.norm(position[-1] - MultiGoal.goals[goal])
        assert distance < MultiGoal.goal_radius
        np.testing.assert_array_less(0.59, np.linalg.norm(np.diff(position, axis=0), axis=1))
    assert min(np.bincount([goal for _, goal in paths], minlength=4)) > 2


def test_paths_that_reach_nothing_have_no_goal():
    paths = play_paths(stay, 3)
    assert [len(position) for position, _ in paths] == [31] * 3
    assert [goal for _, goal in paths] == [None] * 3


def test_the_policy_is_asked_once_per_step_for_all_episodes():
    shapes = []

    def policy(obs):
        shapes.append((obs.shape, obs.dtype))
        return stay(obs)

    play_paths(policy, 4)
    assert shapes == [((4, 2), np.float32)] * 30


def test_the_same_policy_walks_the_same_paths():
    for (one, _), (other, _) in zip(play_paths(outwards, 5), play_paths(outwards, 5), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_panel_shows_paths_counts_and_goals():
    paths = play_paths(outwards, 6)
    axes = Figure().subplots()
    draw_paths(axes, paths, "title")
    walked = [line for line in axes.lines if len(line.get_xdata()) > 1]
    for line, (position, _) in zip(walked, paths, strict=True):
        np.testing.assert_array_equal(np.transpose(line.get_data()), position)
    counts = np.bincount([goal for _, goal in paths], minlength=4)
    assert [text.get_text() for text in axes.texts[-4:]] == [str(count) for count in counts]
    assert [tuple(disc.center) for disc in axes.patches] == [tuple(g) for g in MultiGoal.goals]


def test_a_trained_run_is_plotted_with_its_own_policy(tmp_path):
    options = {"num_env_steps": 60, "num_random_steps": 50, "progress": False}
    dime.train("dime/MultiGoal-v0", preset="laptop", run_dir=tmp_path / "run", **options)
    figure = plot_figure(tmp_path / "run")
    curves, paths = figure.axes
    assert len(curves.lines) == 2  # one seed, two modes
    starts = [line.get_xdata()[0] for line in paths.lines if len(line.get_xdata()) > 1]
    assert len(starts) == 50 and np.abs(starts).max() < 1.0
