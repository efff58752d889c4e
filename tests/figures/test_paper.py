"""The paper's figures show what the records say."""

import json

import numpy as np
import pytest

from dime.errors import DimeError
from dime.figures.curves import panels_of
from dime.figures.paper import (
    FIGURES,
    draw_figure,
    final_score_points,
    official,
    paper_figure,
    wall_clock_points,
)
from dime.figures.runs import read_runs
from dime.statistics import iqm
from tests.figures.make_run import make_run

TEMPERATURE = "settings.temperature.initial"


def make_study(folder, trials, varied=(), missing=()):
    """A study's folder; `trials`: keyword arguments of `make_run` by name."""
    folder.mkdir()
    names = [*trials, *missing]
    content = {
        "format_version": 1,
        "name": folder.name,
        "varied": list(varied),
        "trials": [{"name": name} for name in names],
    }
    (folder / "study.json").write_text(json.dumps(content))
    for name, options in trials.items():
        make_run(folder / name, **options)
    return folder


@pytest.fixture
def temperatures(tmp_path):
    trials = {
        f"t{value:g}": {
            "settings": {"temperature": {"initial": value, "learn": False}},
            "offset": 50 * place,
            "seeds": (0, 1, 2, 3),
            "modes": ("stochastic", "deterministic"),
        }
        for place, value in enumerate((1e-1, 1e-3, 1e-12))
    }
    return make_study(tmp_path / "figure_2ab", trials, [TEMPERATURE], missing=["t7"])


def test_a_curve_for_each_setting_that_a_study_varies(temperatures):
    figure = paper_figure("2a", temperatures)
    (axes,) = figure.axes
    labels = axes.get_legend_handles_labels()[1]
    assert labels == [
        f"dime temperature.initial={v}, stochastic" for v in ("0.1", "0.001", "1e-12")
    ]
    colours = {line.get_color() for line in axes.lines if line.get_label() in labels}
    markers = {line.get_marker() for line in axes.lines if line.get_label() in labels}
    assert len(colours) == len(markers) == 3
    caption = figure._supxlabel.get_text()
    assert "Seeds per curve: 4" in caption and "stochastic actions" in caption
    assert "Left out of figure_2ab: 1 trials" in caption


def test_final_scores_are_those_of_the_last_shared_env_step(temperatures):
    runs = read_runs(temperatures)
    (panel,) = panels_of(official(runs))
    last, points = final_score_points(runs, panel.metric, TEMPERATURE)
    assert last == 1500
    assert list(points) == [1e-12, 1e-3, 1e-1]
    by_kind = {curve.variant: curve.series.lines[0, -1] for curve in panel.curves}
    for setting, numbers in points.items():
        assert len(numbers) == 4
        assert iqm(numbers[:, None]) == pytest.approx(by_kind[f"temperature.initial={setting:g}"])
    figure = paper_figure("2b", temperatures)
    assert figure.axes[0].get_xscale() == "log"


def test_wall_clock_is_the_time_between_evaluations_per_million_steps(tmp_path):
    trials = {
        f"n{steps}": {"settings": {"policy": {"num_denoising_steps": steps}}} for steps in (2, 16)
    }
    study = make_study(tmp_path / "s", trials, ["settings.policy.num_denoising_steps"])
    points = wall_clock_points(read_runs(study), "settings.policy.num_denoising_steps")
    assert list(points) == [2, 16]
    # make_run writes a tenth of a second per env step
    np.testing.assert_allclose(list(points.values()), 1e6 / 10 / 3600)
    paper_figure("3b", study)


def test_only_the_official_mode_is_shown(tmp_path):
    modes = ("stochastic", "deterministic")
    runs = read_runs(
        [
            make_run(tmp_path / "a", algorithm="dime", modes=modes),
            make_run(tmp_path / "b", algorithm="sac", modes=modes),
            make_run(tmp_path / "c", algorithm="elsewhere", modes=modes),
        ]
    )
    shown = {run.config["algorithm"]: {r["mode"] for r in run.records} for run in official(runs)}
    assert shown == {"dime": {"stochastic"}, "sac": {"deterministic"}, "elsewhere": {"stochastic"}}


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_formats(tmp_path, temperatures, suffix):
    file = draw_figure("9", [temperatures], tmp_path / f"f.{suffix}", "shipped")
    assert file.stat().st_size > 5_000


@pytest.mark.parametrize(
    "name, runs, said",
    [
        ("10", ["x"], "no figure '10'"),
        ("2a", [], "figure_2ab"),
        ("5", ["x"], "it takes no runs"),
        ("2b", "plain", "has no number settings.temperature.initial"),
        ("3b", "single", "only one evaluation"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, name, runs, said):
    if runs == "plain":
        runs = [make_run(tmp_path / "run")]
    elif runs == "single":
        settings = {"policy": {"num_denoising_steps": 4}}
        runs = [make_run(tmp_path / "run", steps=(0,), settings=settings)]
    with pytest.raises(DimeError, match=said):
        draw_figure(name, runs, tmp_path / "f.png")


def test_every_figure_of_the_paper_has_a_name():
    numbers = {"1", "2a", "2b", "2c", "2d", "3a", "3b", "3c", "3d", "4", "5", "6", "7", "8", "9"}
    assert set(FIGURES) == numbers | {"comparison"}
