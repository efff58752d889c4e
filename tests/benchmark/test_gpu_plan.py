"""benchmarks/gpu_plan.py carries out all its steps, here at sizes that say nothing."""

import json
import os
import subprocess
import sys
from importlib import util
from pathlib import Path
from types import SimpleNamespace

import pytest

import dime

FILE = Path(__file__).parents[2] / "benchmarks" / "gpu_plan.py"


@pytest.fixture
def gpu_plan():
    spec = util.spec_from_file_location("gpu_plan", FILE)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_step_is_carried_out_without_what_a_bare_machine_lacks(tmp_path):
    for name in ("pytest", "hypothesis", "imageio"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('there is no {name}')")
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OUT": str(tmp_path / "out")}
    command = [sys.executable, FILE, "--tiny", "--total", "3000"]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL)
    steps = json.loads((tmp_path / "out" / "plan.json").read_text())["steps"]
    assert {name: step["ended"] for name, step in steps.items()} == dict.fromkeys(steps, "done"), [
        step.get("last_words") for step in steps.values()
    ]
    found = {name: step["found"] for name, step in steps.items()}
    assert found["device"]["product_gflops"].keys() == {"float32", "tensorfloat32", "bfloat16"}
    assert found["golden"]["files"]["golden_N4"]["float32"]["policy loss"] < 1e-4
    for name in ("repeat", "repeat-deterministic"):
        assert found[name]["equal"] and found[name]["updates"] == 200
    assert "deterministic" in found["repeat-deterministic"]["xla_flags"]
    for precision in ("float32", "tensorfloat32"):
        (row,) = found[f"env-steps-{precision}"]["rows"]
        assert [*row["env_step_ms_by_latency_ms"]] == ["0.0"]
    run = found["real-run"]
    assert (run["state"], run["env_steps_of_each_seed"]) == ("finished", 60)
    assert len(run["returns"]) == run["seeds"] == 2
    assert run["iqm"] == pytest.approx(sum(run["returns"]) / 2)
    assert run["published_iqm_at_100k"] == {"FlashSAC": 248, "XQC": 212, "DIME": 74}
    assert found["playground"]["env_steps_per_s"] > 0


def test_steps_that_fail_or_take_too_long_keep_none_back(tmp_path, gpu_plan, monkeypatch):
    writes = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('[1]'); "
    steps = [
        ("fails", 6, ["-c", writes + "sys.exit('no such device')", "{json}"], ""),
        ("is cut off", 6, ["-c", writes.replace("[1]", "[1,"), "{json}"], ""),
        ("hangs", 2, ["-c", writes + "import time; time.sleep(600)", "{json}"], ""),
        ("works", 6, ["-c", "import os; assert os.environ['XLA_FLAGS'].endswith('--x')"], "--x"),
    ]
    monkeypatch.setattr(gpu_plan, "plan", lambda tiny: steps)
    results = gpu_plan.main(["--out", str(tmp_path), "--total", "20"])["steps"]
    assert results == json.loads((tmp_path / "plan.json").read_text())["steps"]
    assert results["fails"]["ended"] == "failed with exit status 1"
    assert "no such device" in results["fails"]["last_words"]
    assert results["hangs"]["ended"].startswith("stopped at its limit")
    assert results["fails"]["found"] == results["hangs"]["found"] == [1]
    assert results["is cut off"]["found"] is None
    assert results["works"]["ended"] == "done"


def test_a_real_run_ends_by_itself_when_its_time_is_over(gpu_plan, monkeypatch):
    def trained(env, callback, **options):
        assert not options["evaluation_modes"]
        answers = [callback({"env_steps_per_s": rate}) for rate in (1.0, 2.0)]
        return SimpleNamespace(state=answers, env_step=20)

    monkeypatch.setattr(dime, "train", trained)
    found = [gpu_plan.train("env", seconds, "folder")["state"] for seconds in (-1.0, 600.0)]
    assert found == [[True, True], [False, False]]
    assert gpu_plan.train("env", 600.0, "folder")["env_steps_per_s"] == 2.0
