import json

import numpy as np
import pytest

from dime.envs.tiny import two_mode_log_density
from dime.errors import DimeError
from dime.figures import paper
from dime.figures.paper import (
    BANDIT,
    TemperatureChains,
    chains_of,
    draw_figure,
    paper_figure,
)
from dime.figures.policy import NUM_BINS, StateView, bin_centres, boltzmann, prior_masses
from tests.figures.layout import assert_free, caption
from tests.figures.make_run import make_run
from tests.training.runs import DIME, start

SIGNATURES = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


@pytest.fixture(scope="module")
def fixed(tmp_path_factory):
    """A run with a fixed temperature."""
    folder = tmp_path_factory.mktemp("fixed") / "run"
    fixed = {"temperature": {"initial": 2.0, "learn": False}}
    start(folder, BANDIT, **(DIME | fixed))
    return folder


def made(temperature, exact=True, name="run"):
    """Chains of any temperature, without a run; their last actions are exact or uniform."""
    density = boltzmann(two_mode_log_density(bin_centres(1)), temperature)
    uniform = np.full(NUM_BINS[1], 1.0 / NUM_BINS[1])
    last = density / density.sum() if exact else uniform
    mass = np.linspace(prior_masses(2.5), last, 17)
    points = np.tanh(np.random.default_rng(0).normal(size=(17, 15, 1)))
    chains = StateView(0, mass, points, density)
    return TemperatureChains(temperature, f"{name}, seed 0, 10000 env steps", 2.5, chains)


@pytest.fixture
def three(tmp_path, monkeypatch):
    """Folders of runs whose chains are made up, at three temperatures."""
    chains = {"high": made(5.0), "low": made(0.4), "middle": made(1.0, exact=False)}
    monkeypatch.setattr(paper, "chains_of", lambda folder: chains[folder.name])
    return [make_run(tmp_path / name, BANDIT) for name in chains]


def test_the_density_is_the_rewards_in_closed_form(fixed):
    run = chains_of(fixed)
    assert run.temperature == pytest.approx(2.0)
    assert run.source == "run, seed 0, 48 env steps"
    log_density = two_mode_log_density(bin_centres(1)) / 2.0
    ratio = np.log(run.chains.density) - log_density
    np.testing.assert_allclose(ratio, ratio[0])
    assert run.chains.density.sum() * 2.0 / NUM_BINS[1] == pytest.approx(1.0)


def test_the_chain_begins_at_the_prior_and_its_shares_sum_to_one(fixed):
    run = chains_of(fixed)
    np.testing.assert_allclose(run.chains.mass.sum(axis=1), 1.0)
    np.testing.assert_allclose(run.chains.mass[0], prior_masses(run.prior_std), atol=0.01)


def test_panels_are_sorted_by_temperature_and_say_how_far_off_they_are(three):
    figure = paper_figure("1", three)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == "temperature 0.4: total variation 0.00"
    assert titles[2] == "temperature 5: total variation 0.00"
    distance = made(1.0, exact=False).chains.distance
    assert titles[1] == f"temperature 1: total variation {distance:.2f}" and distance > 0.3
    assert "stochastic actions" in caption(figure) and "50000 chains" in caption(figure)
    assert "0.4: run, seed 0, 10000 env steps" in caption(figure)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(names) == ["exp(reward / temperature)", "last actions", "prior"]
    assert_free(figure)


@pytest.mark.parametrize("suffix", SIGNATURES)
def test_files_are_written_in_the_format_of_their_suffix(tmp_path, three, suffix):
    path = draw_figure("1", three, tmp_path / "new" / f"chains.{suffix}")
    assert path.read_bytes().startswith(SIGNATURES[suffix])


def test_runs_that_do_not_fit_are_refused(tmp_path, fixed, dime_run):
    with pytest.raises(DimeError, match=r"are drawn on dime/TwoModeBandit-v0"):
        chains_of(dime_run)
    config = (fixed / "config.json").read_text()
    changed = json.loads(config.replace('"learn": false', '"learn": true'))
    del changed["sha256"]
    (fixed / "config.json").write_text(json.dumps(changed))
    with pytest.raises(DimeError, match=r"was learnt\. .*--no-temperature\.learn"):
        chains_of(fixed)
    (fixed / "config.json").write_text(config)
    with pytest.raises(DimeError, match=r"\.png, \.pdf or \.svg"):
        draw_figure("1", tmp_path / "nowhere", tmp_path / "chains.txt")
