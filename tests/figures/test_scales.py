import json

import numpy as np
import pytest
from matplotlib.collections import PolyCollection

from dime.errors import DimeError
from dime.figures.paper import draw_figure, paper_figure
from dime.statistics import bootstrap_interval, iqm
from tests.figures.layout import assert_free, caption
from tests.figures.make_run import make_run

SIGNATURES = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
STEPS = (0, 500, 1000)


def scale(step, seed, dim):
    return 0.1 + 0.01 * dim + step / 1e4 * (1 + 0.1 * seed)


def with_scales(folder, env="dm_control/dog-run", action_dim=38, **run):
    """A run with made-up diffusion scales in its records; none at step 0, as before updates."""
    make_run(folder, env, **run)
    seeds = json.loads((folder / "config.json").read_text())["training"]["seeds"]
    with (folder / "metrics.jsonl").open("w") as file:
        for step in STEPS:
            for seed in seeds:
                record = {"env_step": step, "seed": seed}
                if step:
                    scales = [scale(step, seed, dim) for dim in range(action_dim)]
                    record["diffusion_scale"] = scales
                file.write(json.dumps(record) + "\n")
    return folder


def bands(axes):
    return [item for item in axes.collections if isinstance(item, PolyCollection)]


@pytest.mark.parametrize(("action_dim", "dims"), [(21, [0, 6, 12, 18]), (4, [0, 1, 2, 3])])
def test_narrower_actions_have_up_to_four_panels_too(tmp_path, action_dim, dims):
    figure = paper_figure("7", with_scales(tmp_path / "run", action_dim=action_dim))
    assert [axes.get_title() for axes in figure.axes] == [f"action dimension {d}" for d in dims]


def test_what_is_drawn_is_what_the_records_say(tmp_path):
    figure = paper_figure("7", with_scales(tmp_path / "run"))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [f"action dimension {dim}" for dim in (0, 10, 20, 30)]
    for dim, axes in zip((0, 10, 20, 30), figure.axes, strict=True):
        (line,), (band,) = axes.lines, bands(axes)
        scores = np.array([[scale(step, seed, dim) for step in STEPS[1:]] for seed in range(3)])
        by_point = scores.T[:, :, None]
        np.testing.assert_array_equal(line.get_xdata(), STEPS[1:])
        np.testing.assert_allclose(line.get_ydata(), iqm(by_point))
        drawn = {tuple(vertex) for vertex in band.get_paths()[0].vertices}
        for end in bootstrap_interval(by_point):
            assert set(zip(STEPS[1:], end, strict=True)) <= drawn
    assert "with 38-dimensional actions" in caption(figure)
    assert "Seeds: dime: 3. Line: interquartile mean" in caption(figure)


def test_fewer_than_three_seeds_are_thin_lines_and_the_caption_says_so(tmp_path):
    figure = paper_figure("7", with_scales(tmp_path / "run", action_dim=1, seeds=(4, 7)))
    (axes,) = figure.axes
    assert len(axes.lines) == 2 and not bands(axes)
    assert axes.lines[1].get_ydata().tolist() == [scale(step, 7, 0) for step in STEPS[1:]]
    assert "fewer than 3 seeds" in caption(figure)


def test_runs_of_a_kind_are_pooled_and_kinds_told_apart_without_colour(tmp_path):
    runs = [
        with_scales(tmp_path / "a", seeds=(0,)),
        with_scales(tmp_path / "b", seeds=(1, 2)),
        with_scales(tmp_path / "gb", algorithm="dime-gb"),
    ]
    figure = paper_figure("7", runs)
    first = figure.axes[0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["dime", "dime-gb"]
    assert len(first.lines) == 2
    assert len({line.get_marker() for line in first.lines}) == 2
    assert "dime: 3; dime-gb: 3" in caption(figure)
    assert_free(figure)


@pytest.mark.parametrize("suffix", SIGNATURES)
def test_files_are_written_in_the_format_of_their_suffix(tmp_path, suffix):
    run = with_scales(tmp_path / "run", action_dim=2)
    path = draw_figure("7", run, tmp_path / "new" / f"scales.{suffix}")
    assert path.read_bytes().startswith(SIGNATURES[suffix])


def test_what_cannot_be_drawn_is_refused(tmp_path):
    dog = with_scales(tmp_path / "dog")
    other = with_scales(tmp_path / "other", "dm_control/cheetah-run", 6)
    with pytest.raises(DimeError, match="several environments"):
        paper_figure("7", [dog, other])
    silent = make_run(tmp_path / "sac", "dm_control/dog-run", "sac")
    with pytest.raises(DimeError, match="no diffusion_scale .* sac does not learn one"):
        paper_figure("7", [dog, silent])
    with pytest.raises(DimeError, match=r"\.png, \.pdf or \.svg"):
        draw_figure("7", dog, tmp_path / "scales.txt")
