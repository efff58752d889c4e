"""benchmarks/gpu.py works, at sizes that say nothing, and needs few packages."""

import json
import subprocess
import sys
from importlib import util
from pathlib import Path

import jax
import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
ABSENT = """
import sys
for name in "gymnasium mujoco dm_control tyro rich matplotlib safetensors scipy filelock".split():
    sys.modules[name] = None
import runpy
runpy.run_path(sys.argv[1])
"""


def test_it_measures_and_writes(tmp_path):
    spec = util.spec_from_file_location("gpu", FILE)
    gpu = util.module_from_spec(spec)
    spec.loader.exec_module(gpu)
    words = ["--tiny", "--seeds", "2", "--steps", "4", "--env-steps", "3"]
    with jax.debug_key_reuse(False):  # which refuses every vmapped scan over keys
        gpu.main([*words, "--json", str(tmp_path / "figures.json")])
    (row,) = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert (row["num_seeds"], row["num_denoising_steps"], row["env_steps_timed"]) == (2, 4, 3)
    times = row["env_step_ms_by_latency_ms"]
    assert times["2.0"] >= 2.0 and times["0.0"] > 0.0
    assert row["gflops"] is None  # of such sizes it would mean nothing
    # 76.4 GFLOP at 16 steps; 16 more are a chain more per critic update, three per policy update.
    assert gpu.work("dog-run", 16) == pytest.approx(76.4, abs=0.05)
    assert gpu.work("dog-run", 32) == pytest.approx(76.4 + 4 * 3.84, abs=0.1)


def test_it_needs_few_packages():
    subprocess.run([sys.executable, "-c", ABSENT, FILE], check=True, timeout=120)
