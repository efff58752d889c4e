"""The table of all algorithms, at sizes that take no time; the times themselves are not judged."""

import json

import pytest

import dime.benchmark.benchmark
from dime.algorithms.registry import ALGORITHMS
from dime.errors import DimeError
from dime.types import EnvSpec
from tests.algorithms.small import small


def test_a_record_for_every_algorithm(tmp_path, monkeypatch, capsys):
    few = {name: ALGORITHMS[name] for name in ("sac", "qvpo")}
    preset_settings = dime.benchmark.benchmark.preset_settings
    monkeypatch.setattr(dime.benchmark.benchmark, "ALGORITHMS", few)
    monkeypatch.setattr(dime.benchmark.benchmark, "SPEC", EnvSpec(3, 2, 100))
    monkeypatch.setattr(
        dime.benchmark.benchmark, "preset_settings", lambda *args: small(preset_settings(*args))
    )
    file = tmp_path / "figures.json"
    dime.benchmark.benchmark.benchmark_all("laptop", file)
    records = json.loads(file.read_text())["algorithms"]
    assert [record["algorithm"] for record in records] == ["sac", "qvpo"]
    for record in records:
        assert record["update_ms"] > 0.0 and record["act_ms"] > 0.0
        assert record["updates_per_env_step"] == 1
    assert records[1]["network_evaluations_least"] == 4 * 3 + 5 * 3 + 11
    assert "qvpo" in capsys.readouterr().out


def test_an_unknown_preset_is_refused():
    with pytest.raises(DimeError, match="nearest: laptop"):
        dime.benchmark.benchmark.benchmark_all("labtop", None)
