"""Exporting a policy: a folder that acts as the run's policy does, without this package."""

import hashlib
import json
import os
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

import dime
from dime.deploy import run_policy
from dime.deploy.action import Action
from dime.deploy.formats import (
    DYNAMIC,
    FORMATS,
    OLDEST_RUNTIMES,
    Artefact,
    make_artefact,
    refuse_unless_installed,
)
from dime.errors import DimeError, choose, require

TOLERANCE = 1e-5
"""Largest difference of an export's actions, in units of half the action's range; a StableHLO
program of a fixed batch has none."""
_CALLS = 2  # with which an export is compared to the policy
_VERSIONS_OF = {
    "stablehlo": ("jax", "jaxlib"),
    "onnx": ("jax", "jax2onnx", "onnx", "onnxruntime"),
    "safetensors": ("safetensors",),
}


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
    """Writes a folder with a run's policy, which needs neither this package nor the run.

    Beside the policy stand `policy.json`, which describes it, and `run_policy.py`, which runs it.
    The export is compared with the policy before it is put into place.

    Args:
        run_dir: the run's folder.
        output: the folder to make; where something stands already it is refused.
        format: `stablehlo` (runs with jax, on CPUs and CUDA), `onnx` (with onnxruntime) or
            `safetensors` (the weights alone).
        mode: `stochastic`, `deterministic`, `best_of_n` or another of the algorithm's; by default
            its official one (`dime list algorithms`).
        batch: how many observations it takes at a time; `dynamic` for any number.
        seed: which of the run's seeds; the first one by default.
        checkpoint: another checkpoint's folder than the newest one.
        opset: of an ONNX graph; by default the lowest that has all its operations, for the sake of
            old runtimes.

    Returns:
        The folder.

    Raises:
        DimeError: what `dime.load_policy` refuses, a folder that is not empty, a mode that the
            format cannot represent, a package that is missing, or an export that does not act as
            the policy does. Nothing is left behind then.
    """
    output = Path(output)
    choose("format", format, FORMATS)
    _refuse_batch(batch, format)
    _refuse_opset(opset, format)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DimeError(f"{output} exists already; choose another place (-o).")
    refuse_unless_installed(format)
    action = Action.of(Path(run_dir), mode, seed, Path(checkpoint) if checkpoint else None)
    write_export(action, output, format, batch, opset)
    return output


def write_export(
    action: Action, output: Path, format: str, batch: int | str, opset: int | None = None
) -> None:
    """Makes the folder of a policy; errors are those of `export_policy`."""
    artefact = make_artefact(action, format, batch, opset)
    files = artefact.files | {"run_policy.py": Path(run_policy.__file__).read_bytes()}
    about = _description(action, format, batch, artefact) | {
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    }
    digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    content = json.dumps(about | {"sha256": digest}, indent=1)
    _write(output, files | {"policy.json": content.encode()}, action)


def _refuse_batch(batch: Any, format: str) -> None:
    whole = isinstance(batch, int) and not isinstance(batch, bool) and batch >= 1
    require(
        whole or batch == DYNAMIC,
        f"batch is {batch!r}; it must be a whole number, at least 1, or '{DYNAMIC}'.",
    )
    require(
        format != "safetensors" or batch == 1,
        f"batch is {batch!r}, but weights alone have no batch: leave it out.",
    )


def _refuse_opset(opset: Any, format: str) -> None:
    require(
        opset is None or format == "onnx",
        f"opset is {opset!r}, but {format} has none: leave it out, or choose the format onnx.",
    )
    known = sorted(OLDEST_RUNTIMES)
    require(
        opset is None or opset in known,
        f"opset is {opset!r}; it must be a whole number, {known[0]} to {known[-1]}.",
    )


def _write(output: Path, files: dict[str, bytes], action: Action) -> None:
    """Makes the folder, compared with the policy first, whole or not at all."""
    place = output.absolute()
    unfinished = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        unfinished.mkdir(parents=True)
        for name, content in files.items():
            (unfinished / name).write_bytes(content)
        _compare(unfinished, action)
        if place.is_dir():  # an empty one, perhaps somebody's working directory or a mount point
            for file in sorted(unfinished.iterdir()):
                shutil.move(file, place / file.name)
        else:
            unfinished.rename(place)
    except OSError as error:
        raise DimeError(
            f"{output} cannot be made ({error.strerror}). Choose another place (-o)."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _compare(folder: Path, action: Action) -> None:
    """Raises `DimeError` where the folder's own runner does not act as the policy does."""
    try:
        exported = run_policy.Policy(folder)
    except Exception as error:  # whatever a runtime raises for a program that it cannot run
        raise DimeError(f"The export cannot be run; nothing was written: {error}") from error
    if exported.about["format"] == "safetensors":
        arrays = action.used_arrays()
        same = arrays.keys() == exported.weights.keys() and all(
            exported.weights[name].tobytes() == array.tobytes() for name, array in arrays.items()
        )
        require(same, "The weights in the written file are not those of the policy.")
        return
    batch = exported.about["batch"]
    for call in range(_CALLS):
        rows = 1 + 2 * (call % 2) if batch == DYNAMIC else batch
        obs = np.random.default_rng(call).normal(size=(rows, action.spaces.obs_dim))
        difference = _difference(exported, action, obs.astype(np.float32), call)
        exact = exported.about["format"] == "stablehlo" and batch != DYNAMIC
        allowed = 0.0 if exact else TOLERANCE
        require(
            difference <= allowed,
            f"The export does not act as the policy: actions differ by {difference:.2g} of half "
            f"the action's range, at most {allowed:g} is allowed. Nothing was written.",
        )


def _difference(exported: Any, action: Action, obs: np.ndarray, call: int) -> float:
    """The largest difference of the actions, in units of half the action's range."""
    seed = 7  # any
    if exported.about["format"] == "onnx":
        exported.act(obs, seed, call)  # with noise that it draws itself
        taken = exported.act(obs, seed, call, noise=action.reference_noise(len(obs), seed, call))
    else:
        taken = exported.act(obs, seed, call)
    expected = action.reference(obs, seed, call)
    half_range = action.spaces.rescaling[1].reshape(action.spaces.action_shape)
    if (taken.shape, taken.dtype) != (expected.shape, expected.dtype):
        return float("inf")
    return float((np.abs(taken.astype(np.float64) - expected) / half_range).max(initial=0.0))


def _description(
    action: Action, format: str, batch: int | str, artefact: Artefact
) -> dict[str, Any]:
    """What policy.json says, but for the sums of the files."""
    spaces, config = action.spaces.to_json(), action.restored.config
    checkpoint = action.restored.checkpoint
    described = config.to_json()
    shape = [*([] if format == "safetensors" else ["batch" if batch == DYNAMIC else batch])]
    return {
        "format": format,
        "mode": action.mode,
        "batch": None if format == "safetensors" else batch,
        "programs": artefact.programs,
        **artefact.needs,
        "inputs": artefact.inputs,
        "outputs": [
            {
                "name": "action",
                "shape": [*shape, *action.spaces.action_shape],
                "dtype": action.spaces.action_dtype,
            }
        ],
        "observation": spaces["observation"],
        "observation_order": "leaves in this order, each flattened in C order, as float32",
        "action": {name: spaces[f"action_{name}"] for name in ("shape", "dtype", "low", "high")},
        "licence": "run_policy.py: MIT, as dime itself. The policy belongs to who trained it.",
        "provenance": {
            "algorithm": config.algorithm,
            "preset": config.preset,
            "env": config.env,
            "env_kwargs": config.env_kwargs,
            "settings": described["settings"],
            "env_step": checkpoint.env_step,
            "updates": checkpoint.run.updates,
            "seed": action.seed,
            "checkpoint": checkpoint.path.name,
            "state_sha256": checkpoint.state_sha256,
            "versions": {
                "dime": dime.__version__,
                **{name: metadata.version(name) for name in _VERSIONS_OF[format]},
            },
        },
    }
