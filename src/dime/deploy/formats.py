"""The three forms of an exported policy: StableHLO programs, an ONNX graph, weights alone."""

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy

from dime.deploy.action import SCALAR, Action, to_env_units
from dime.deploy.noise import Noise, known_values, noise_of, with_noise
from dime.errors import DimeError, require

DYNAMIC = "dynamic"
_PLATFORMS = ("cpu", "cuda")
_NEEDS = {
    "stablehlo": ("flatbuffers",),
    "onnx": ("jax2onnx", "onnx", "onnxruntime"),
    "safetensors": (),
}
FORMATS = tuple(_NEEDS)
OLDEST_RUNTIMES = {
    17: "1.12", 18: "1.14", 19: "1.15", 20: "1.17", 21: "1.18", 22: "1.21", 23: "1.23",
}  # fmt: skip
"""By opset of an ONNX graph, the first release of ONNX Runtime that implements it."""


class Artefact(NamedTuple):
    """Files by name; what the programs among them take, which runs where, and what they need."""

    files: dict[str, bytes]
    programs: dict[str, str]
    inputs: list[dict[str, Any]]
    needs: dict[str, Any] = {}


def refuse_unless_installed(format: str) -> None:
    """Raises `DimeError` where what a format needs is not there."""
    missing = [name for name in _NEEDS[format] if importlib.util.find_spec(name) is None]
    if missing:
        raise DimeError(
            f"Exporting to {format} needs {', '.join(missing)}: pip install 'dime-rl[export]'"
        )


def make_artefact(
    action: Action, format: str, batch: int | str, opset: int | None = None
) -> Artefact:
    """The policy in one of the `FORMATS`; of an ONNX graph the lowest opset that does by default.

    Raises:
        DimeError: the mode cannot be represented in it, with the reason.
    """
    if format == "safetensors":
        weights = safetensors.numpy.save(action.used_arrays())
        return Artefact({"policy.safetensors": weights}, {}, [])
    return _stablehlo(action, batch) if format == "stablehlo" else _onnx(action, batch, opset)


def _rows(batch: int | str) -> Any:
    """The size of the batch axis, where it is dynamic as a symbol."""
    from jax import export

    return export.symbolic_shape("batch")[0] if batch == DYNAMIC else batch


def _stablehlo(action: Action, batch: int | str) -> Artefact:
    """A program for each platform, as JAX lowers it there.

    One for all of them would branch on the platform, and compilers round on either side of a
    branch in other places: its actions were not those of the run's policy to the last bit.
    """
    from jax import export

    keep = jax.lax.optimization_barrier  # from folding weights into constants of its own rounding

    def act(obs, seed, call):
        state = jax.tree.map(keep, action.state)
        return to_env_units(action.spaces, keep(action.unit(state, obs, seed, call)))

    files = {}
    for platform in _PLATFORMS:
        exported = export.export(jax.jit(act), platforms=[platform])
        try:
            program = exported(action.observations(_rows(batch)), SCALAR, SCALAR).serialize()
        except Exception as error:  # whatever an algorithm's code raises for a symbolic size
            raise _refusal(action, "stablehlo", batch, error) from error
        files[f"policy.{platform}.stablehlo"] = bytes(program)
    inputs = [
        _input("obs", (batch, action.spaces.obs_dim)),
        _input("seed", (), "uint32"),
        _input("call", (), "uint32"),
    ]
    return Artefact(files, dict(zip(_PLATFORMS, files, strict=True)), inputs)


def _onnx(action: Action, batch: int | str, opset: int | None) -> Artefact:
    """A graph whose noise is among its inputs."""
    try:
        traced = action.traced(_rows(batch))
        noise = noise_of(traced.jaxpr)
        opset, content = _lowest(opset, lambda opset: _convert(action, traced, noise, opset))
    except Exception as error:  # the converter raises errors of many kinds
        raise _refusal(action, "onnx", batch, error) from error
    inputs = [_input("obs", (batch, action.spaces.obs_dim))]
    for name, each in zip(_names(noise), noise, strict=True):
        require(
            all(isinstance(n, int) or str(n) == "batch" for n in each.shape),
            f"Its noise has the shape {each.shape}, which the runner could not draw. Export it "
            "with a fixed --batch.",
        )
        shape = tuple(n if isinstance(n, int) else DYNAMIC for n in each.shape)
        inputs.append({**_input(name, shape), "distribution": each.distribution})
    needs = {"opset": opset, "oldest_onnxruntime": OLDEST_RUNTIMES[opset]}
    return Artefact({"policy.onnx": content}, {"onnx": "policy.onnx"}, inputs, needs)


def _lowest(opset: int | None, convert: Callable[[int], bytes]) -> tuple[int, bytes]:
    """The graph of this opset, or of the lowest that has all its operations."""
    opsets = sorted(OLDEST_RUNTIMES) if opset is None else [opset]
    for each in opsets[:-1]:
        with suppress(Exception):  # the converter and the checker raise errors of many kinds
            return each, convert(each)
    return opsets[-1], convert(opsets[-1])


def _names(noise: list[Noise]) -> list[str]:
    return [f"noise_{number}" for number in range(len(noise))]


def _convert(action: Action, traced: Any, noise: list[Noise], opset: int) -> bytes:
    """The graph; raises where this opset lacks one of its operations."""
    known = known_values(traced)
    with _quiet():
        import onnx
        from jax2onnx import to_onnx

    def act(obs, *given):
        return with_noise(traced, [obs, None, None], given, known)[0]

    shapes = [jax.ShapeDtypeStruct(each.shape, np.float32) for each in noise]
    with _quiet():
        model: Any = to_onnx(
            act,
            [action.observations(traced.in_avals[0].shape[0]), *shapes],
            model_name="policy",
            input_names=["obs", *_names(noise)],
            output_names=["unit_action"],
            opset=opset,
        )
    _append_rescaling(model, action)
    model.ir_version = onnx.helper.find_min_ir_version_for(list(model.opset_import))
    onnx.checker.check_model(model)
    return model.SerializeToString()


@contextmanager
def _quiet() -> Iterator[None]:
    """The converter's own remarks are not for those who export a policy."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)


def _append_rescaling(model: Any, action: Action) -> None:
    """Adds `spaces.to_env_action` to a graph that ends in actions of [-1, 1]."""
    import onnx

    spaces, graph = action.spaces, model.graph
    middle, half_range = spaces.rescaling
    constants = {
        "half_range": half_range,
        "middle": middle,
        "low": np.array(spaces.action_low),
        "high": np.array(spaces.action_high),
        "shape": np.array((0, *spaces.action_shape)),  # 0 keeps the batch axis
    }
    for name, value in constants.items():
        graph.initializer.append(onnx.numpy_helper.from_array(value, f"action_{name}"))
    dtype = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(spaces.action_dtype))
    steps: list[tuple[str, list[str], dict[str, Any]]] = [
        ("Cast", [], {"to": onnx.TensorProto.DOUBLE}),
        ("Mul", ["action_half_range"], {}),
        ("Add", ["action_middle"], {}),
        ("Max", ["action_low"], {}),
        ("Min", ["action_high"], {}),
        ("Cast", [], {"to": dtype}),
        ("Reshape", ["action_shape"], {}),
    ]
    value = "unit_action"
    for number, (kind, others, attributes) in enumerate(steps):
        last = number == len(steps) - 1
        result = "action" if last else f"action_{number}"
        node = onnx.helper.make_node(kind, [value, *others], [result], **attributes)
        graph.node.append(node)
        value = result
    rows = graph.output[0].type.tensor_type.shape.dim[0]
    first = rows.dim_param or rows.dim_value
    output = onnx.helper.make_tensor_value_info(value, dtype, [first, *spaces.action_shape])
    del graph.output[:]
    graph.output.append(output)


def _input(name: str, shape: tuple[int | str, ...], dtype: str = "float32") -> dict[str, Any]:
    sizes = ["batch" if size == DYNAMIC else size for size in shape]
    return {"name": name, "shape": sizes, "dtype": dtype}


def _refusal(action: Action, format: str, batch: int | str, error: Exception) -> DimeError:
    algorithm = action.restored.config.algorithm
    reason = str(error) if isinstance(error, DimeError) else f"{type(error).__name__}: {error}."
    size = "a dynamic batch" if batch == DYNAMIC else f"a batch of {batch}"
    return DimeError(
        f"The mode '{action.mode}' of {algorithm} cannot be exported to {format} with {size}: "
        f"{reason} Try another format, mode or batch; see docs/deployment.md."
    )
