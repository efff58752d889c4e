"""Exported policies drive an environment where only their runtime is installed; `pytest -m soak`.

A virtual environment of its own for each format gets NumPy, the runtime and Gymnasium from the
package index, in the versions that stand here, and nothing else.
"""

import json
import subprocess
import sys
from importlib import metadata

import gymnasium
import numpy as np
import pytest

import dime

pytestmark = [pytest.mark.soak, pytest.mark.promise("R14")]
RUNTIME = {"stablehlo": ("jax", "flatbuffers"), "onnx": ("onnxruntime",)}
SEEDS = (0, 1)

EPISODES = """
import json, sys
import gymnasium
from run_policy import Policy

returns = []
for seed in json.loads(sys.argv[1]):
    env, policy = gymnasium.make("Pendulum-v1"), Policy(seed=seed)
    obs, _ = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        obs, reward, terminated, truncated, _ = env.step(policy(obs))
        total, over = total + float(reward), terminated or truncated
    returns.append(total)
print(json.dumps(returns))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pendulum") / "run"
    dime.train(
        "Pendulum-v1",
        preset="laptop",
        run_dir=folder,
        num_env_steps=120,
        num_random_steps=60,
        policy={"hidden_dim": 16},
        critic={"hidden_dim": 32, "v_min": -500.0, "v_max": 0.0},
        num_evaluation_episodes=1,
        progress=False,
    )
    return folder


def returns_here(run, mode):
    returns = []
    for seed in SEEDS:
        env, policy = gymnasium.make("Pendulum-v1"), dime.load_policy(run, mode, noise_seed=seed)
        obs, _ = env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(policy(obs[None])[0])
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return returns


@pytest.mark.parametrize(
    ("format", "mode", "tolerance"),
    [("stablehlo", "stochastic", 0.0), ("onnx", "deterministic", 1e-3)],
)
def test_episodes_in_a_bare_environment_return_the_same(run, tmp_path, format, mode, tolerance):
    folder = dime.export_policy(run, tmp_path / "policy", format, mode=mode)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "bare"], check=True)
    python = tmp_path / "bare" / "bin" / "python"
    names = ("numpy", "gymnasium", *RUNTIME[format])
    wanted = [f"{name}=={metadata.version(name)}" for name in names]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True, text=True
    )
    installed = {package["name"] for package in json.loads(listed.stdout)}
    assert installed.isdisjoint({"dime-rl", "equinox", "safetensors"})
    assert (format == "onnx") == installed.isdisjoint({"jax", "jaxlib"})
    finished = subprocess.run(
        [python, "-c", EPISODES, json.dumps(SEEDS)],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    np.testing.assert_allclose(json.loads(finished.stdout), returns_here(run, mode), rtol=tolerance)
