"""Runs the exported policy beside this file: `Policy(folder, seed)(obs)` gives the action.

Needs NumPy and, by the policy's format, jax with flatbuffers, onnxruntime or safetensors.
Observations are the environment's own, one or a batch; actions are in its units. Every call draws
new noise.
"""

import hashlib
import json
from pathlib import Path

import numpy as np


def read_verified(folder):
    """The content of policy.json; raises ValueError if a file is not what was exported."""
    try:
        about = json.loads((folder / "policy.json").read_text("utf-8-sig"))
        recorded = {"policy.json": about.pop("sha256")} | about["files"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / 'policy.json'} is damaged ({error!r}).") from error
    for name, expected in recorded.items():
        own = name == "policy.json"
        content = json.dumps(about).encode() if own else (folder / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != expected:
            raise ValueError(f"{folder / name} is damaged: its SHA-256 is not the recorded one.")
    return about


def load_stablehlo(folder, about):
    """`act(obs, seed, call)` as a compiled program of this platform."""
    import jax
    import jax.export

    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    content = (folder / about["programs"][platform]).read_bytes()
    act = jax.jit(jax.export.deserialize(bytearray(content)).call)
    return lambda obs, seed, call: np.asarray(act(obs, np.uint32(seed), np.uint32(call)))


def load_onnx(folder, about):
    """`act(obs, seed, call)`, or with `noise` (arrays) in their place."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # more of them spin while they wait
    file = str(folder / about["programs"]["onnx"])
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [each["name"] for each in about["inputs"]]

    def act(obs, seed, call, noise=None):
        noise = draw(about["inputs"][1:], len(obs), [seed, call]) if noise is None else noise
        return session.run(None, dict(zip(names, [obs, *noise], strict=True)))[0]

    return act


def draw(inputs, batch, seed):
    """Noise for the inputs that need it."""
    generator = np.random.default_rng(seed)
    draws = {"normal": generator.standard_normal, "gumbel": generator.gumbel}
    drawn = []
    for each in inputs:
        shape = [batch if n == "batch" else n for n in each["shape"]]
        drawn.append(draws[each["distribution"]](size=shape).astype(np.float32))
    return drawn


class Policy:
    """An exported policy; `weights` has the arrays of one that is weights alone."""

    def __init__(self, folder=Path(__file__).parent, seed=0):
        if not (isinstance(seed, int) and 0 <= seed < 2**32):
            raise ValueError(f"seed is {seed!r}; it must be a whole number, 0 to 2**32 - 1.")
        folder = Path(folder)
        self.about, self.seed, self.calls = read_verified(folder), seed, 0
        if self.about["format"] == "safetensors":
            import safetensors.numpy

            self.weights = safetensors.numpy.load_file(folder / "policy.safetensors")
        else:
            load = {"stablehlo": load_stablehlo, "onnx": load_onnx}[self.about["format"]]
            self.act = load(folder, self.about)

    def __call__(self, obs):
        """Actions for one observation or a batch of them."""
        if self.about["format"] == "safetensors":
            raise ValueError("These are weights alone (the attribute `weights`); they cannot act.")
        flat = self.flatten(obs)
        if not np.isfinite(flat).all():
            raise ValueError("The observation has entries that are NaN or infinite (in float32).")
        rows = flat.reshape(-1, flat.shape[-1])
        if self.about["batch"] not in ("dynamic", len(rows)):
            raise ValueError(
                f"Expected {self.about['batch']} observations, got {len(rows)}: the policy was "
                "exported for that number (dime export --batch N, or --batch dynamic)."
            )
        action = self.act(rows, self.seed, self.calls)
        self.calls += 1
        return action.reshape(flat.shape[:-1] + action.shape[1:])

    def flatten(self, obs):
        """Observations as float32 (batch, dimensions), their parts in the recorded order."""
        parts = []
        for leaf in self.about["observation"]:
            value = obs
            for key in leaf["path"]:
                value = value[key]
            value, rank = np.asarray(value), len(leaf["shape"])
            if list(value.shape[value.ndim - rank :]) != leaf["shape"]:
                raise ValueError(f"Expected {leaf}, got the shape {value.shape}.")
            flat = value.reshape(*value.shape[: value.ndim - rank], -1)
            # Each by itself: joined, whole numbers would round twice.
            parts.append(flat.astype(np.float32))
        return np.concatenate(parts, axis=-1)


if __name__ == "__main__":
    print(json.dumps(Policy().about, indent=1))
