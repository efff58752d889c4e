"""A policy as an ONNX graph, with its noise as inputs, because ONNX knows no random keys.

The policy is traced with `jax.random.normal` and `gumbel` replaced: they return inputs of the graph
(or real draws, to compare with). JAX does not compile meanwhile, so that loops are unrolled.
"""

import itertools
import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, get_opaque_trace_state, jaxpr_as_fun
from jax.interpreters.partial_eval import dce_jaxpr

from dime.deploy.policy import Policy
from dime.errors import DimeError, require

OLDEST_RUNTIMES = {
    17: "1.12", 18: "1.14", 19: "1.15", 20: "1.17", 21: "1.18", 22: "1.21", 23: "1.23",
}  # fmt: skip
"""By opset of an ONNX graph, the first release of ONNX Runtime that implements it."""
_DRAWS = {"normal": jax.random.normal, "gumbel": jax.random.gumbel}


class Noise(NamedTuple):
    """An input of independent draws, `normal` (standard normal) or `gumbel` (standard Gumbel).

    `repeats` draws of the same kind in a row share an input, which then has a leading axis.
    """

    distribution: str
    shape: tuple[Any, ...]
    repeats: int = 1


def _unit_action(policy: Policy, draw: Callable[..., Any], obs: Any, key: Any, call: Any) -> Any:
    """The policy's action with `draw(distribution, key, shape)` in place of its random numbers."""
    outside = get_opaque_trace_state()

    def drawing(distribution):
        def replacement(key, shape=(), dtype=np.float32):
            if get_opaque_trace_state() != outside:
                raise DimeError("it draws random numbers in a vmap, which cannot become inputs.")
            return draw(distribution, key, tuple(shape))

        return replacement

    def categorical(key, logits, axis=-1):
        return (jax.random.gumbel(key, logits.shape) + logits).argmax(axis)

    def no_key(*_, **__):
        raise DimeError("it makes random numbers from a key (random_seed) that cannot be an input.")

    replaced: Any = {name: drawing(name) for name in _DRAWS}
    random = mock.patch.multiple(jax.random, categorical=categorical, key=no_key, **replaced)
    barrier = mock.patch.object(jax.lax, "optimization_barrier", lambda operand: operand)
    with jax.disable_jit(), random, barrier:
        return policy.unit_action(policy.state, obs, key, call)


def _draws(policy: Policy, *arguments: Any) -> list[dict[str, Any]]:
    """What the policy draws itself with `obs, key, call`, by distribution."""
    drawn: list[dict[str, Any]] = []

    def draw(distribution, key, shape):
        drawn.append({distribution: _DRAWS[distribution](key, shape)})
        return drawn[-1][distribution]

    _unit_action(policy, draw, *arguments)
    return drawn


def noise_of(policy: Policy, rows: Any) -> list[Noise]:
    """What the policy draws for so many observations, in the order of the graph's inputs."""
    arguments = policy.observations(rows), jax.random.key(0), np.uint32(0)
    drawn = jax.eval_shape(partial(_draws, policy), *arguments)
    each = [(name, array.shape) for draw in drawn for name, array in draw.items()]
    groups = [(*kind, len(list(group))) for kind, group in itertools.groupby(each)]
    return [Noise(name, shape if n == 1 else (n, *shape), n) for name, shape, n in groups]


def drawn_noise(policy: Policy, rows: int, call: int) -> list[np.ndarray]:
    """The noise that the policy draws itself in its `call`-th call."""
    obs, key = jnp.zeros((rows, policy.spaces.obs_dim)), jax.random.key(policy.noise_seed)
    drawn = iter(jax.tree.leaves(jax.jit(partial(_draws, policy))(obs, key, np.uint32(call))))
    parts = [[next(drawn) for _ in range(each.repeats)] for each in noise_of(policy, rows)]
    return [np.stack(part) if len(part) > 1 else np.asarray(part[0]) for part in parts]


def make_graph(
    policy: Policy, rows: Any, opset: int | None
) -> tuple[bytes, list[dict[str, Any]], int]:
    """The serialised graph, its noise inputs as policy.json lists them, and its opset."""
    noise = noise_of(policy, rows)
    inputs = []
    for number, each in enumerate(noise):
        require(
            all(isinstance(n, int) or str(n) == "batch" for n in each.shape),
            f"its noise has the shape {each.shape}, which the runner could not draw. Export it "
            "with a fixed --batch.",
        )
        shape = [n if isinstance(n, int) else "batch" for n in each.shape]
        about = {"name": f"noise_{number}", "shape": shape, "dtype": "float32"}
        inputs.append(about | {"distribution": each.distribution})
    traced = _traced(policy, rows, noise)
    opset, content = _lowest(opset, lambda opset: _convert(policy, traced, opset))
    return content, inputs, opset


def _traced(policy: Policy, rows: Any, noise: Sequence[Noise]) -> ClosedJaxpr:
    """`(obs, *noise) -> action` in [-1, 1]; refuses other random numbers that it needs."""

    def act(obs, *inputs):
        draws = (
            array if each.repeats == 1 else array[index]
            for each, array in zip(noise, inputs, strict=True)
            for index in range(each.repeats)
        )
        return _unit_action(policy, lambda *_: next(draws), obs, key, np.uint32(0))

    key = jax.random.key(0)
    shapes = [jax.ShapeDtypeStruct(each.shape, np.float32) for each in noise]
    traced = jax.make_jaxpr(act)(policy.observations(rows), *shapes)
    needed = dce_jaxpr(traced.jaxpr, [True], instantiate=True)[0]
    for equation in needed.eqns:
        dtypes = [getattr(variable.aval, "dtype", None) for variable in equation.invars]
        if any(jnp.issubdtype(dtype, jax.dtypes.prng_key) for dtype in dtypes if dtype):
            how = equation.primitive.name
            raise DimeError(f"it draws random numbers in a way that cannot be an input ({how}).")
    return ClosedJaxpr(needed, traced.consts)


def _lowest(opset: int | None, convert: Callable[[int], bytes]) -> tuple[int, bytes]:
    """The graph of this opset, or of the lowest that has all its operations."""
    opsets = sorted(OLDEST_RUNTIMES) if opset is None else [opset]
    for each in opsets[:-1]:
        with suppress(Exception):  # the converter and the checker raise errors of many kinds
            return each, convert(each)
    return opsets[-1], convert(opsets[-1])


def _convert(policy: Policy, traced: ClosedJaxpr, opset: int) -> bytes:
    """The graph; raises if this opset lacks one of its operations."""
    logger = logging.getLogger("onnx_ir")
    with ExitStack() as stack:  # hides remarks that mean nothing to those who export a policy
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.ERROR)
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        import onnx
        from jax2onnx import to_onnx

        shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in traced.in_avals]
        model: Any = to_onnx(
            lambda *inputs: jaxpr_as_fun(traced)(*inputs)[0],
            shapes,
            model_name="policy",
            input_names=["obs", *(f"noise_{number}" for number in range(len(shapes) - 1))],
            output_names=["unit_action"],
            opset=opset,
        )
    _append_rescaling(model, policy)
    model.ir_version = onnx.helper.find_min_ir_version_for(list(model.opset_import))
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _append_rescaling(model: Any, policy: Policy) -> None:
    """Adds `spaces.to_env_action` to a graph that ends in actions of [-1, 1]."""
    import onnx

    spaces, graph = policy.spaces, model.graph
    middle, half_range = spaces.rescaling
    dtype = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(spaces.action_dtype))
    steps: list[tuple[str, Any]] = [  # operation, and its constant or the type it casts to
        ("Cast", onnx.TensorProto.DOUBLE),
        ("Mul", half_range),
        ("Add", middle),
        ("Max", np.array(spaces.action_low)),
        ("Min", np.array(spaces.action_high)),
        ("Cast", dtype),
        ("Reshape", np.array((0, *spaces.action_shape))),  # 0 keeps the batch axis
    ]
    value = "unit_action"
    for number, (kind, operand) in enumerate(steps):
        inputs, attributes = [value], {"to": operand} if kind == "Cast" else {}
        if kind != "Cast":
            inputs.append(f"action_operand_{number}")
            graph.initializer.append(onnx.numpy_helper.from_array(operand, inputs[1]))
        value = "action" if number == len(steps) - 1 else f"action_{number}"
        graph.node.append(onnx.helper.make_node(kind, inputs, [value], **attributes))
    rows = graph.output[0].type.tensor_type.shape.dim[0]
    first = rows.dim_param or rows.dim_value
    output = onnx.helper.make_tensor_value_info(value, dtype, [first, *spaces.action_shape])
    del graph.output[:]
    graph.output.append(output)
