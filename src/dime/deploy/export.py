"""Exporting a policy: a folder that acts as the run's policy does, without this package."""

import json
import os
import shutil
from hashlib import sha256
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr

import dime
from dime.deploy import onnx_graph, run_policy
from dime.deploy.policy import Policy, load_policy
from dime.envs.spaces import Spaces
from dime.errors import DimeError, choose, describe, require

TOLERANCE = 1e-5
"""Largest difference of an export's actions, in units of half the action's range; a StableHLO
program of a fixed batch has none."""
_DYNAMIC = "dynamic"
_PLATFORMS = ("cpu", "cuda")
_SCALAR = jax.ShapeDtypeStruct((), np.uint32)
_NEEDS = {
    "stablehlo": ("flatbuffers",),
    "onnx": ("jax2onnx", "onnx", "onnxruntime"),
    "safetensors": ("safetensors",),
}
_VERSIONS_OF = _NEEDS | {"stablehlo": ("jax", "jaxlib"), "onnx": ("jax", *_NEEDS["onnx"])}


def export_policy(  # noqa: PLR0913  everything past the third is keyword-only
    run_dir: str | Path,
    output: str | Path,
    format: str = "stablehlo",
    *,
    mode: str | None = None,
    batch: int | Literal["dynamic"] = 1,
    seed: int | None = None,
    checkpoint: str | Path | None = None,
    opset: int | None = None,
) -> Path:
    """Writes, and returns, a folder with a run's policy that needs neither dime nor the run.

    `policy.json` describes the policy and `run_policy.py` runs it. The export is compared with the
    policy before it is put into place.

    Args:
        run_dir: the run's folder.
        output: the folder to make; it may exist if it is empty.
        format: `stablehlo` (runs with jax, on CPUs and CUDA), `onnx` (with onnxruntime) or
            `safetensors` (the weights alone).
        mode: `stochastic`, `deterministic`, `best_of_n` or another of the algorithm's; by default
            its official one (`dime list algorithms`).
        batch: how many observations it takes at a time; `dynamic` for any number.
        seed: which of the run's seeds; the first one by default.
        checkpoint: another checkpoint's folder than the newest one.
        opset: of an ONNX graph; by default the lowest that has all its operations.

    Raises:
        DimeError: what `dime.load_policy` refuses, a folder that is not empty, a mode that the
            format cannot represent, a package that is missing, or an export that does not act as
            the policy does. It then leaves nothing behind.
    """
    output = Path(output)
    _check_options(format, batch, opset)
    free = not output.exists() or (output.is_dir() and not any(output.iterdir()))
    require(free, f"{output} exists already; choose another place (-o).")
    missing = ", ".join(name for name in _NEEDS[format] if find_spec(name) is None)
    require(not missing, f"Exporting to {format} needs {missing}: pip install 'dime-rl[export]'")
    policy = load_policy(run_dir, mode, seed=seed, checkpoint=checkpoint)
    write_export(policy, output, format, batch, opset)
    return output


def write_export(
    policy: Policy, output: Path, format: str, batch: int | str, opset: int | None
) -> None:
    """Makes the folder of a policy, whole or not at all; errors are those of `export_policy`."""
    place = output.absolute()
    unfinished = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        files, programs = _made(policy, format, batch, opset)
        files["run_policy.py"] = Path(run_policy.__file__).read_bytes()
        about = _description(policy, format, batch, programs)
        about["files"] = {name: sha256(content).hexdigest() for name, content in files.items()}
        about["sha256"] = sha256(json.dumps(about).encode()).hexdigest()
        files["policy.json"] = json.dumps(about, indent=1).encode()
        unfinished.mkdir(parents=True)
        for name, content in files.items():
            (unfinished / name).write_bytes(content)
        _compare(unfinished, policy)
        if place.is_dir():  # an empty one, perhaps somebody's working directory or a mount point
            for file in sorted(unfinished.iterdir()):
                shutil.move(file, place / file.name)
        else:
            unfinished.rename(place)
    except OSError as error:
        raise DimeError(f"{output} cannot be made (-o): {error}") from error
    except Exception as error:  # whatever a converter, a runtime or an algorithm's code raises
        reason = error if isinstance(error, DimeError) else describe(error)
        raise DimeError(
            f"The mode '{policy.mode}' of {policy.restored.config.algorithm} cannot be exported to "
            f"{format} with batch {batch} (docs/deployment.md): {reason}"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check_options(format: str, batch: Any, opset: Any) -> None:
    choose("format", format, _NEEDS)
    require(
        (type(batch) is int and batch >= 1) or batch == _DYNAMIC,
        f"batch is {batch!r}; it must be a whole number, at least 1, or '{_DYNAMIC}'.",
    )
    known = sorted(onnx_graph.OLDEST_RUNTIMES)
    require(
        opset is None or (format == "onnx" and opset in known),
        f"opset is {opset!r}; it must be {known[0]} to {known[-1]}, with the format onnx.",
    )


def _made(
    policy: Policy, format: str, batch: int | str, opset: int | None
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Files by name, and what policy.json says of the programs among them."""
    if format == "safetensors":
        import safetensors.numpy

        weights = safetensors.numpy.save(used_arrays(policy))
        return {"policy.safetensors": weights}, {"programs": {}, "inputs": []}
    rows = jax.export.symbolic_shape("batch")[0] if batch == _DYNAMIC else batch
    shape = ["batch" if batch == _DYNAMIC else batch, policy.spaces.obs_dim]
    obs = {"name": "obs", "shape": shape, "dtype": "float32"}
    if format == "stablehlo":
        files = {f"policy.{each}.stablehlo": _stablehlo(policy, rows, each) for each in _PLATFORMS}
        programs = dict(zip(_PLATFORMS, files, strict=True))
        scalars = [{"name": name, "shape": [], "dtype": "uint32"} for name in ("seed", "call")]
        return files, {"programs": programs, "inputs": [obs, *scalars]}
    graph, noise, opset = onnx_graph.make_graph(policy, rows, opset)
    return {"policy.onnx": graph}, {
        "programs": {"onnx": "policy.onnx"},
        "opset": opset,
        "oldest_onnxruntime": onnx_graph.OLDEST_RUNTIMES[opset],
        "inputs": [obs, *noise],
    }


def _stablehlo(policy: Policy, rows: Any, platform: str) -> bytes:
    """The program of one platform: one for all would branch, and round differently."""
    keep = jax.lax.optimization_barrier  # from folding weights into constants with other rounding

    def act(obs, seed, call):
        state = jax.tree.map(keep, policy.state)
        action = policy.unit_action(state, obs, jax.random.key(seed), call)
        return to_env_units(policy.spaces, keep(action))

    exported = jax.export.export(jax.jit(act), platforms=[platform])
    return bytes(exported(policy.observations(rows), _SCALAR, _SCALAR).serialize())


def to_env_units(spaces: Spaces, action: jax.Array) -> jax.Array:
    """`spaces.to_env_action` in JAX, equal to it to the last bit."""
    middle, half_range = spaces.rescaling
    low, high = np.array(spaces.action_low), np.array(spaces.action_high)
    with jax.enable_x64(True):
        # Clipped to what it cannot exceed, so that no compiler contracts product and sum.
        offset = jnp.clip(action.astype(np.float64) * half_range, -half_range, half_range)
        value = jnp.clip(offset + middle, low, high).astype(spaces.action_dtype)
        return value.reshape(action.shape[:-1] + spaces.action_shape)


def used_arrays(policy: Policy) -> dict[str, np.ndarray]:
    """The arrays of the state that the mode depends on, by their path in it."""

    def act(state, obs, seed):
        return policy.unit_action(state, obs, jax.random.key(seed), 0)

    traced = jax.make_jaxpr(act)(policy.state, policy.observations(1), _SCALAR)
    _, used = dce_jaxpr(traced.jaxpr, [True])
    arrays = zip(jax.tree.leaves_with_path(policy.state), used, strict=False)
    return {jax.tree_util.keystr(at): np.asarray(leaf) for (at, leaf), needed in arrays if needed}


def _compare(folder: Path, policy: Policy) -> None:
    """Raises `DimeError` if the folder's own runner does not act as the policy does."""
    exported = run_policy.Policy(folder, policy.noise_seed)
    if exported.about["format"] == "safetensors":
        return  # checked by its sum, as every file
    batch = exported.about["batch"]
    exact = exported.about["format"] == "stablehlo" and batch != _DYNAMIC
    allowed = 0.0 if exact else TOLERANCE
    for call in (0, 1):
        rows = 1 + 2 * call if batch == _DYNAMIC else batch
        obs = np.random.default_rng(call).normal(size=(rows, policy.spaces.obs_dim))
        difference = _difference(exported, policy, obs.astype(np.float32), call)
        require(
            difference <= allowed,
            f"The export does not act as the policy: actions differ by {difference:.2g} of half "
            f"the action's range, at most {allowed:g} is allowed. Nothing was written. "
            f"--batch dynamic and --format onnx allow {TOLERANCE:g}.",
        )


def _difference(exported: Any, policy: Policy, obs: np.ndarray, call: int) -> float:
    """The largest difference of the actions, in units of half the action's range."""
    taken, expected = exported.act(obs, exported.seed, call), policy.act(obs, call)
    if exported.about["format"] == "onnx":  # so far with noise that it drew itself
        noise = onnx_graph.drawn_noise(policy, len(obs), call)
        taken = exported.act(obs, exported.seed, call, noise=noise)
    half_range = policy.spaces.rescaling[1].reshape(policy.spaces.action_shape)
    if (taken.shape, taken.dtype) != (expected.shape, expected.dtype):
        return float("inf")
    return float((np.abs(taken.astype(np.float64) - expected) / half_range).max(initial=0.0))


def _description(
    policy: Policy, format: str, batch: int | str, programs: dict[str, Any]
) -> dict[str, Any]:
    """What policy.json says, without the sums of the files."""
    spaces, config = policy.spaces.to_json(), policy.restored.config.to_json()
    checkpoint, acts = policy.restored.checkpoint, format != "safetensors"
    rows = ["batch" if batch == _DYNAMIC else batch] if acts else []
    shape = [*rows, *policy.spaces.action_shape]
    return {
        "format": format,
        "mode": policy.mode,
        "batch": batch if acts else None,
        **programs,
        "outputs": [{"name": "action", "shape": shape, "dtype": policy.spaces.action_dtype}],
        "observation": spaces["observation"],
        "observation_order": "leaves in this order, each flattened in C order, as float32",
        "action": {name: spaces[f"action_{name}"] for name in ("shape", "dtype", "low", "high")},
        "licence": "run_policy.py: MIT, as dime itself. The policy belongs to who trained it.",
        "provenance": {
            **{name: config[name] for name in ("algorithm", "preset", "env", "env_kwargs")},
            "settings": config["settings"],
            "env_step": policy.env_step,
            "updates": checkpoint.run.updates,
            "seed": policy.seed,
            "checkpoint": checkpoint.path.name,
            "state_sha256": checkpoint.state_sha256,
            "versions": {"dime": dime.__version__}
            | {name: metadata.version(name) for name in _VERSIONS_OF[format]},
        },
    }
