import gymnasium
import numpy as np
import pytest

from dime.envs.environment import Environment
from dime.errors import DimeError
from dime.figures import paper
from dime.figures.paper import (
    PAPER_ENVIRONMENTS,
    Portrait,
    draw_figure,
    gallery_figure,
    portrait_of,
)
from tests.figures.layout import assert_free

TINY = ["dime/MultiGoal-v0", "dime/TwoModeBandit-v0"]
SIGNATURES = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


class Unseen(gymnasium.Env):
    """An environment that cannot be rendered."""

    render_mode = "rgb_array"
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (3,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,))
    closed = 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(3, np.float32), {}

    def render(self):
        raise RuntimeError("no screen")

    def close(self):
        Unseen.closed += 1


@pytest.fixture
def unseen(monkeypatch):
    monkeypatch.setattr(paper, "make", lambda name, render: Environment(Unseen(), name))


def test_the_papers_environments_are_thirteen_different_ones():
    assert len(set(PAPER_ENVIRONMENTS)) == len(PAPER_ENVIRONMENTS) == 13


def test_a_portrait_has_sizes_and_the_first_frame():
    portrait = portrait_of("dime/MultiGoal-v0")
    assert portrait.sizes == "observation 2, action 2"
    assert portrait.frame.shape == (256, 256, 3) and portrait.frame.dtype == np.uint8
    again = portrait_of("dime/MultiGoal-v0")
    np.testing.assert_array_equal(portrait.frame, again.frame)


def test_what_cannot_be_made_has_a_panel_with_the_reason():
    figure = gallery_figure([*TINY, "NoSuchThing-v0"])
    *shown, missing = figure.axes
    assert all(axes.images for axes in shown) and not missing.images
    assert missing.get_title() == "NoSuchThing-v0\nnot made here"
    assert "There is no environment" in missing.texts[0].get_text().replace("\n", " ")


def test_what_cannot_be_rendered_has_its_sizes_and_the_reason(unseen):
    Unseen.closed = 0
    portrait = portrait_of("Unseen-v0")
    assert portrait.frame is None and portrait.sizes == "observation 3, action 4"
    assert "RuntimeError: no screen" in portrait.reason
    assert Unseen.closed == 1


def test_texts_do_not_overlap(monkeypatch):
    reason = "A suite that is not installed is named with what installs it. " * 20
    portraits = {
        name: Portrait("observation 376, action 38", np.zeros((48, 64, 3), np.uint8))
        if number % 3
        else Portrait("not made here", None, reason)
        for number, name in enumerate(PAPER_ENVIRONMENTS)
    }
    monkeypatch.setattr(paper, "portrait_of", portraits.get)
    figure = gallery_figure()
    assert len(figure.axes) == 13
    assert_free(figure)
    for axes in figure.axes:  # the reason stays inside of its panel
        for text in axes.texts:
            box, panel = text.get_window_extent(), axes.get_window_extent()
            assert panel.x0 <= box.x0 and box.x1 <= panel.x1
            assert panel.y0 <= box.y0 and box.y1 <= panel.y1


@pytest.mark.parametrize("suffix", SIGNATURES)
def test_files_are_written_in_the_format_of_their_suffix(tmp_path, monkeypatch, suffix):
    portrait = Portrait("observation 2, action 2", np.zeros((48, 64, 3), np.uint8))
    monkeypatch.setattr(paper, "portrait_of", lambda name: portrait)
    path = draw_figure("5", [], tmp_path / "new" / f"gallery.{suffix}")
    assert path.read_bytes().startswith(SIGNATURES[suffix])


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(DimeError, match=r"\.png, \.pdf or \.svg"):
        draw_figure("5", [], tmp_path / "gallery.txt")
