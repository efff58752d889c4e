"""The benchmarks work, at sizes that say nothing; nothing is timed here."""

import importlib.util
import json
from pathlib import Path

import jax
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def module_of(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_growth_measures_fits_and_draws(tmp_path, monkeypatch):
    growth = module_of("growth")
    monkeypatch.setattr(
        growth, "VALUES", {name: growth.VALUES[name] for name in ("seeds", "batch")}
    )
    files = [tmp_path / "figures.json", tmp_path / "growth.png"]
    with jax.debug_key_reuse(False):  # which refuses every vmapped scan over keys
        growth.main(
            ["--tiny", "--rounds", "1", "--json", str(files[0]), "--picture", str(files[1])]
        )
    curves = json.loads(files[0].read_text())["curves"]
    assert set(curves) == set(growth.VALUES)
    assert all(len(curve["ms"]) == 2 and min(curve["ms"]) > 0 for curve in curves.values())
    assert files[1].read_bytes().startswith(b"\x89PNG")


def test_growth_finds_what_it_was_made_of():
    growth = module_of("growth")
    times = [3.0 + 0.5 * value for value in (1, 2, 3)]
    assert growth.fit("seeds", [1, 2, 3], times) == pytest.approx(
        {"fixed_ms": 3.0, "slope_ms": 0.5, "power": 1}
    )
    squares = [3.0 + 0.5 * value**2 for value in (1, 2, 3)]
    assert growth.fit("critic_width", [1, 2, 3], squares)["slope_ms"] == pytest.approx(0.5)


def test_the_side_by_side_times_this_package(monkeypatch):
    """SBX itself is installed for `make bench-peers` alone."""
    peers = module_of("peers")
    monkeypatch.setattr(peers, "HIDDEN_DIM", {"policy": 8, "critic": 8})
    monkeypatch.setattr(peers, "BATCH_SIZE", 8)
    assert peers.time_dime("Pendulum-v1", 200, 100) > 0
