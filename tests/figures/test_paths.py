import numpy as np
from matplotlib.figure import Figure

import dime
from dime.envs.tiny import MultiGoal
from dime.figures.learning import (
    count_goals,
    draw_paths,
    paths_caption,
    play_paths,
    plot_figure,
)


def outwards(obs):
    """Each episode along the axis that its start already leans to."""
    along = np.abs(obs) == np.abs(obs).max(axis=-1, keepdims=True)
    return (0.6 * np.sign(obs) * along).astype(np.float32)


def stay(obs):
    return np.zeros_like(obs)


def test_paths_end_at_the_goals_that_are_counted():
    paths = play_paths(outwards, 40)
    for path in paths:
        distance = np.linalg.norm(path.position[-1] - MultiGoal.goals[path.goal])
        assert distance < MultiGoal.goal_radius
        np.testing.assert_array_less(0.59, np.linalg.norm(np.diff(path.position, axis=0), axis=1))
    counts = count_goals(paths)
    assert sum(counts) == 40 and min(counts) > 2
    assert counts == [sum(path.goal == goal for path in paths) for goal in range(4)]


def test_paths_that_reach_nothing_are_counted_too():
    paths = play_paths(stay, 3)
    assert [len(path.position) for path in paths] == [31] * 3
    assert [path.goal for path in paths] == [None] * 3
    assert "none: 3." in paths_caption(paths, "run")


def test_the_policy_is_asked_once_per_step_for_all_episodes():
    shapes = []

    def policy(obs):
        shapes.append((obs.shape, obs.dtype))
        return stay(obs)

    play_paths(policy, 4)
    assert shapes == [((4, 2), np.float32)] * 30


def test_the_same_policy_walks_the_same_paths():
    for one, other in zip(play_paths(outwards, 5), play_paths(outwards, 5), strict=True):
        np.testing.assert_array_equal(one.position, other.position)


def test_the_panel_shows_paths_counts_and_goals():
    paths = play_paths(outwards, 6)
    axes = Figure().subplots()
    draw_paths(axes, paths, "title")
    walked = [line for line in axes.lines if len(line.get_xdata()) > 1]
    for line, path in zip(walked, paths, strict=True):
        np.testing.assert_array_equal(np.transpose(line.get_data()), path.position)
    assert [text.get_text() for text in axes.texts[-4:]] == [str(n) for n in count_goals(paths)]
    assert [tuple(disc.center) for disc in axes.patches] == [tuple(g) for g in MultiGoal.goals]


def test_a_trained_run_is_plotted_with_its_own_policy(tmp_path):
    options = {"num_env_steps": 60, "num_random_steps": 50, "progress": False}
    dime.train("dime/MultiGoal-v0", preset="laptop", run_dir=tmp_path / "run", **options)
    figure = plot_figure(tmp_path / "run")
    curves, paths = figure.axes
    assert len(curves.lines) == 2  # one seed, two modes
    starts = [line.get_xdata()[0] for line in paths.lines if len(line.get_xdata()) > 1]
    assert len(starts) == 50 and np.abs(starts).max() < 1.0
