"""An exported policy acts as the run's own, in a process that knows nothing of this package."""

import hashlib
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import onnx
import pytest

import dime
from dime.algorithms.registry import ALGORITHMS
from dime.cli.main import main
from dime.deploy import run_policy
from dime.deploy.export import TOLERANCE, to_env_units, write_export
from dime.deploy.onnx_graph import _lowest, drawn_noise
from dime.deploy.policy import Policy, restore_agents
from dime.envs.spaces import Spaces
from dime.errors import DimeError
from tests.deploy.made import SPACES, policy_of
from tests.training.runs import checkpoints

pytestmark = pytest.mark.promise("R14")

MODES = ["stochastic", "deterministic", "best_of_n"]
HALF_RANGE = SPACES.rescaling[1][:, None]
SEED, CALLS, ROWS = 3, 4, 250

# Keeps the actions of every policy folder named; what is named first cannot be imported.
FRESH_PROCESS = """
import sys
blocked, data, *folders = sys.argv[1:]
for name in blocked.split(","):
    sys.modules[name] = None
import importlib.util
import numpy as np

given = np.load(data)
for folder in folders:
    spec = importlib.util.spec_from_file_location("run_policy", folder + "/run_policy.py")
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    policy = runner.Policy(seed=int(given["seed"]))
    actions = []
    for call, obs in enumerate(given["obs"]):
        parts = {"place": obs[:, :2].astype(np.float64), "speed": obs[:, 2]}
        names = sorted(n for n in given if n.startswith(f"{policy.about['mode']}/{call}/"))
        if policy.about["format"] == "onnx":
            noise = [given[name] for name in names]
            actions.append(policy.act(policy.flatten(parts), None, None, noise=noise))
        else:
            actions.append(policy(parts))
    np.save(folder + "/actions.npy", np.stack(actions))
assert not any(name.split(".")[0] == "dime" and module for name, module in sys.modules.items())
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Folders of DIME by format and mode, for batches of ROWS."""
    place = tmp_path_factory.mktemp("exported")
    for format in ("stablehlo", "onnx"):
        for mode in MODES:
            write_export(policy_of("dime", mode, place), place / format / mode, format, ROWS, None)
    return place


OBS = np.random.default_rng(0).normal(size=(CALLS, ROWS, 3)).astype(np.float32)


def parts(obs):
    return {"place": obs[..., :2], "speed": obs[..., 2]}


def act_elsewhere(folders, blocked, data, tmp_path):
    """The actions of policies in a fresh process, by folder."""
    np.savez(tmp_path / "given.npz", seed=SEED, obs=OBS, **data)
    words = [blocked, str(tmp_path / "given.npz"), *map(str, folders)]
    command = [sys.executable, "-I", "-W", "error", "-c", FRESH_PROCESS, *words]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    return [np.load(folder / "actions.npy") for folder in folders]


def act_here(mode, folder):
    policy = policy_of("dime", mode, folder, SEED)
    return np.stack([policy(parts(obs)) for obs in OBS])


def test_stablehlo_acts_as_the_policy_to_the_last_bit(exported, tmp_path):
    folders = [exported / "stablehlo" / mode for mode in MODES]
    blocked = "dime,equinox,optax,gymnasium,safetensors,onnxruntime"
    for mode, actions in zip(MODES, act_elsewhere(folders, blocked, {}, tmp_path), strict=True):
        expected = act_here(mode, tmp_path)
        assert (actions.dtype, actions.shape) == (np.float64, (CALLS, ROWS, 2, 1))
        np.testing.assert_array_equal(actions, expected)
        assert len(np.unique(expected)) > ROWS


def test_onnx_acts_as_the_policy_given_the_same_noise(exported, tmp_path):
    noise = {
        f"{mode}/{call}/{number}": array
        for mode in MODES
        for policy in [policy_of("dime", mode, tmp_path, SEED)]
        for call in range(CALLS)
        for number, array in enumerate(drawn_noise(policy, ROWS, call))
    }
    folders = [exported / "onnx" / mode for mode in MODES]
    found = act_elsewhere(folders, "dime,jax,jaxlib,safetensors", noise, tmp_path)
    for mode, actions in zip(MODES, found, strict=True):
        difference = np.abs(actions - act_here(mode, tmp_path)) / HALF_RANGE
        assert (actions.dtype, actions.shape) == (np.float64, (CALLS, ROWS, 2, 1))
        assert difference.max() <= TOLERANCE, mode


def test_onnx_draws_its_own_noise_otherwise(exported, tmp_path):
    first, again, other = (
        run_policy.Policy(exported / "onnx" / "stochastic", seed) for seed in (0, 0, 1)
    )
    obs = parts(np.zeros((ROWS, 3)))
    calls = [first(obs), first(obs)]
    np.testing.assert_array_equal(again(obs), calls[0])
    assert (calls[0] != calls[1]).mean() > 0.5 and (other(obs) != calls[0]).mean() > 0.5
    here = policy_of("dime", "stochastic", tmp_path, SEED)
    drawn = np.concatenate([here(obs) for _ in range(20)]) / HALF_RANGE
    there = np.concatenate([first(obs) for _ in range(20)]) / HALF_RANGE
    np.testing.assert_allclose(drawn.mean(axis=0), there.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(drawn.std(axis=0), there.std(axis=0), atol=0.1)


@pytest.mark.parametrize("format", ["stablehlo", "onnx"])
def test_any_batch(tmp_path, format):
    policy = policy_of("dime", "deterministic", tmp_path)
    write_export(policy, tmp_path / "policy", format, "dynamic", None)
    exported = run_policy.Policy(tmp_path / "policy")
    for rows in (1, 4, 9):
        obs = parts(OBS[0, :rows])
        np.testing.assert_allclose(exported(obs), policy(obs), atol=1e-4)
    assert exported(parts(OBS[0, 0])).shape == (2, 1)
    about = json.loads((tmp_path / "policy" / "policy.json").read_text())
    assert about["inputs"][0]["shape"] == ["batch", 3] and about["batch"] == "dynamic"


def test_an_onnx_graph_runs_on_old_runtimes(tmp_path):
    policy = policy_of("sac", "deterministic", tmp_path)
    for asked, opset, ir, oldest in ((None, 17, 8, "1.12"), (21, 21, 10, "1.18")):
        folder = tmp_path / f"policy-{opset}"
        write_export(policy, folder, "onnx", 2, asked)  # compares
        graph = onnx.load(folder / "policy.onnx")
        assert [each.version for each in graph.opset_import] == [opset]
        assert graph.ir_version == ir
        about = json.loads((folder / "policy.json").read_text())
        assert (about["opset"], about["oldest_onnxruntime"]) == (opset, oldest)


def test_the_lowest_opset_that_has_all_operations():
    def convert(opset):
        if opset < 20:
            raise onnx.checker.ValidationError(f"No Op registered for Gelu in {opset}")
        return b"graph"

    assert _lowest(None, convert) == (20, b"graph")
    assert _lowest(22, convert) == (22, b"graph")
    with pytest.raises(onnx.checker.ValidationError, match="in 18"):
        _lowest(18, convert)


def test_weights_alone_are_those_that_the_mode_needs(dime_run, tmp_path):
    names = {}
    for mode in ("stochastic", "best_of_n"):
        weights = run_policy.Policy(
            dime.export_policy(dime_run, tmp_path / mode, "safetensors", mode=mode)
        ).weights
        names[mode] = set(weights)
        state = restore_agents(dime_run).state
        np.testing.assert_array_equal(
            weights[".policy.module.control.output.kernel"],
            state.policy.module.control.output.kernel[0],
        )
    assert all(name.startswith(".policy.") for name in names["stochastic"])
    assert any(name.startswith(".critics.") for name in names["best_of_n"])
    assert not any("optimizer" in name for name in names["best_of_n"])


def test_what_is_said_of_it(dime_run, tmp_path):
    folder = dime.export_policy(dime_run, tmp_path / "policy", mode="deterministic", batch=2)
    about = json.loads((folder / "policy.json").read_text())
    assert (about["mode"], about["batch"]) == ("deterministic", 2)
    assert about["observation"] == [{"path": [], "shape": [2], "dtype": "float32"}]
    assert about["action"] == {
        "shape": [2], "dtype": "float32", "low": [-1.0, -1.0], "high": [1.0, 1.0],
    }  # fmt: skip
    newest, provenance = checkpoints(dime_run)[-1], about["provenance"]
    assert (provenance["checkpoint"], provenance["env_step"]) == (newest.name, 48)
    digest = hashlib.sha256((newest / "state.safetensors").read_bytes()).hexdigest()
    assert provenance["state_sha256"] == digest
    files = {path.name for path in folder.iterdir()} - {"policy.json"}
    assert files == set(about["files"]) == {"run_policy.py", *about["programs"].values()}
    policy = dime.load_policy(dime_run, "deterministic")
    np.testing.assert_array_equal(run_policy.Policy(folder)(OBS[0, :2, :2]), policy(OBS[0, :2, :2]))


@pytest.mark.parametrize("format", ["stablehlo", "onnx"])
def test_the_runner_refuses_a_changed_file(exported, format, tmp_path):
    about = json.loads((exported / format / "deterministic" / "policy.json").read_text())
    for name in ("policy.json", *about["files"]):
        folder = shutil.copytree(exported / format / "deterministic", tmp_path / name)
        content = (folder / name).read_bytes()
        middle = len(content) // 2
        if name == "policy.json":  # still JSON
            content = content.replace(b'"deterministic"', b'"deterministiC"')
        else:
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            run_policy.Policy(folder)


def test_the_runner_refuses_what_is_no_observation(exported):
    policy = run_policy.Policy(exported / "onnx" / "deterministic")
    with pytest.raises(ValueError, match="NaN or infinite"):
        policy(parts(np.full((ROWS, 3), np.nan)))
    with pytest.raises(ValueError, match="got the shape"):
        policy({"place": np.zeros((ROWS, 3)), "speed": np.zeros(ROWS)})
    with pytest.raises(ValueError, match="Expected 250 observations, got 2.*--batch"):
        policy(parts(np.zeros((2, 3))))
    for seed in (-1, 2**32, 1.5):
        with pytest.raises(ValueError, match="seed is"):
            run_policy.Policy(exported / "onnx" / "deterministic", seed)


def test_weights_alone_do_not_act(tmp_path):
    write_export(
        policy_of("sac", "deterministic", tmp_path), tmp_path / "policy", "safetensors", 1, None
    )
    with pytest.raises(ValueError, match="weights alone"):
        run_policy.Policy(tmp_path / "policy")(parts(np.zeros((1, 3))))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sha256": ""}'])
def test_the_runner_refuses_a_damaged_description(tmp_path, content):
    (tmp_path / "policy.json").write_text(content)
    with pytest.raises(ValueError, match="damaged"):
        run_policy.Policy(tmp_path)


REFUSED = {
    "mode": ({"mode": "determinstic"}, "nearest: deterministic"),
    "format": ({"format": "onxx"}, "no format 'onxx'; nearest: onnx"),
    "no batch": ({"batch": 0}, "batch is 0"),
    "opset": ({"format": "onnx", "opset": 12}, "opset is 12; .* 17 to 23"),
    "opset of another format": ({"opset": 17}, "opset is 17; .* with the format onnx"),
    "seed": ({"seed": 5}, "has no seed 5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_written(straight, tmp_path, case):
    arguments, reason = REFUSED[case]
    with pytest.raises(DimeError, match=reason):
        dime.export_policy(straight, tmp_path / "policy", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_missing_is_named(straight, tmp_path, monkeypatch):
    monkeypatch.setattr("dime.deploy.export.find_spec", lambda name: None)
    for format, needed in (("stablehlo", "flatbuffers"), ("onnx", "jax2onnx, onnx, onnxruntime")):
        with pytest.raises(DimeError, match=rf"{needed}: pip install 'dime-rl\[export\]'"):
            dime.export_policy(straight, tmp_path / "policy", format)


def test_nothing_that_stands_is_written_over(straight, tmp_path):
    (tmp_path / "note").write_text("mine")
    for place in (tmp_path, tmp_path / "note"):
        with pytest.raises(DimeError, match="exists already"):
            dime.export_policy(straight, place)
    with pytest.raises(DimeError, match="cannot be made"):
        dime.export_policy(straight, tmp_path / "note" / "policy", "safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["note"]
    (tmp_path / "empty").mkdir()
    inode = (tmp_path / "empty").stat().st_ino
    assert dime.export_policy(straight, tmp_path / "empty", "safetensors") == tmp_path / "empty"
    assert (tmp_path / "empty").stat().st_ino == inode  # somebody may be in it
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "note"]


@pytest.mark.parametrize("format", ["stablehlo", "onnx"])
def test_an_export_that_acts_otherwise_is_not_left(tmp_path, format, monkeypatch):
    policy = policy_of("sac", "deterministic", tmp_path)
    expected = Policy.act
    monkeypatch.setattr(
        Policy, "act", lambda *arguments: expected(*arguments) + 1e-4 * np.ones((2, 1))
    )
    with pytest.raises(DimeError, match="does not act as the policy"):
        write_export(policy, tmp_path / "policy", format, 3, None)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_checkpoint_is_refused(straight, tmp_path):
    run = shutil.copytree(straight, tmp_path / "run")
    older, newest = checkpoints(run)
    content = bytearray((newest / "state.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "state.safetensors").write_bytes(content)
    with pytest.raises(DimeError, match=f"is damaged.*There are: {older}"):
        dime.export_policy(run, tmp_path / "policy")
    dime.export_policy(run, tmp_path / "policy", "safetensors", checkpoint=older)
    about = json.loads((tmp_path / "policy" / "policy.json").read_text())
    assert about["provenance"]["env_step"] == 45


def test_the_command(straight, tmp_path, capsys):
    words = ["export", str(straight), "-o", str(tmp_path / "policy"), "--mode", "deterministic"]
    assert main([*words, "--format", "onnx", "--batch", "2", "--opset", "18"]) == 0
    assert f"wrote {tmp_path / 'policy'}" in capsys.readouterr().out
    assert json.loads((tmp_path / "policy" / "policy.json").read_text())["opset"] == 18
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_mode_that_draws_from_the_observation_is_no_onnx(tmp_path):
    policy = policy_of("dacer", "observation_seeded", tmp_path)
    with pytest.raises(DimeError, match="observation_seeded.*onnx.*random numbers.*random_seed"):
        write_export(policy, tmp_path / "policy", "onnx", 3, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_goes_to_stablehlo(name, tmp_path):
    """In its official mode; the other modes and ONNX are in tests/soak/test_every_export.py."""
    policy = policy_of(name, ALGORITHMS[name].official_mode, tmp_path)
    write_export(policy, tmp_path / "policy", "stablehlo", 3, None)  # compares


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_units_of_the_environment_to_the_last_bit(dtype):
    low, high = (-0.37, -3.3, -0.4, -1.0, 1e-3), (1.234, 7.7, 0.4, 1.0, 1e6)
    leaf = SPACES.observation[0]
    spaces = Spaces("units", (leaf,), (5,), dtype, low, high)
    action = np.random.default_rng(0).uniform(-1.1, 1.1, (50_000, 5)).astype(np.float32)
    action[:3] = [[-1.0] * 5, [1.0] * 5, [0.0] * 5]
    found = np.asarray(jax.jit(lambda action: to_env_units(spaces, action))(action))
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, spaces.to_env_action(action))


def test_the_runner_flattens_as_the_policy_does(tmp_path):
    write_export(policy_of("sac", "deterministic", tmp_path), tmp_path / "policy", "onnx", 2, None)
    runner = run_policy.Policy(tmp_path / "policy")
    whole = np.int64([2**54 + 2**30 + 1, 4])  # to be rounded once
    obs = {"speed": whole, "place": np.float64([[0.1, 0.2], [0.3, 0.4]])}
    np.testing.assert_array_equal(runner.flatten(obs), SPACES.flatten(obs))
    assert runner(obs).shape == (2, 2, 1)
