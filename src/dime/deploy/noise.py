"""A function of arrays and a random key, with its noise as inputs and its loops written out.

ONNX knows neither random keys nor a way to repeat theirs. Here a jaxpr is evaluated equation by
equation: what is drawn with a key becomes an input of its own, calls are inlined and scans
unrolled. What is left are plain array equations. What depends on no input can be computed before.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from dime.errors import DimeError

_DRAWS = {"_normal": "normal", "_gumbel": "gumbel"}  # functions of jax.random
_KEY: Any = None  # stands for a key where noise is given


class Noise(NamedTuple):
    """An array of independent draws, `normal` (standard normal) or `gumbel` (standard Gumbel)."""

    distribution: str
    shape: tuple[Any, ...]


def noise_of(jaxpr: Any) -> list[Noise]:
    """What a jaxpr draws, in the order in which `with_noise` takes it.

    Draws in a scan are stacked along a first axis.

    Raises:
        DimeError: random numbers that are no normal and no Gumbel noise, or whose key is computed.
    """
    found: list[Noise] = []
    for equation in jaxpr.eqns:
        if not _touches_keys(equation):
            continue
        inner, length = _inner(equation), equation.params.get("length")
        distribution = _distribution(equation)
        if distribution is not None:
            found.append(Noise(distribution, tuple(equation.outvars[0].aval.shape)))
        elif inner is not None and length is None:
            found += noise_of(inner.jaxpr)
        elif inner is not None:
            found += [Noise(each, (length, *shape)) for each, shape in noise_of(inner.jaxpr)]
        elif not _derives_keys(equation):
            raise DimeError(
                "it draws random numbers in a way that cannot become an input "
                f"({equation.primitive.name})."
            )
    return found


def known_values(closed: Any) -> dict[Any, jax.Array]:
    """By variable, what a closed jaxpr computes from its constants alone."""
    constants = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    known, equations = set(constants), []
    for equation in closed.jaxpr.eqns:
        sizes = [size for out in equation.outvars for size in out.aval.shape]
        of_constants = all(isinstance(v, Literal) or v in known for v in equation.invars)
        if of_constants and all(isinstance(size, int) for size in sizes):
            equations.append(equation)
            known.update(equation.outvars)

    def compute():
        values = dict(constants)
        for equation in equations:
            operands = [v.val if isinstance(v, Literal) else values[v] for v in equation.invars]
            values |= zip(equation.outvars, _results(equation, operands, None, None), strict=True)
        return [values[out] for equation in equations for out in equation.outvars]

    names = [out for equation in equations for out in equation.outvars]
    return dict(zip(names, jax.jit(compute)(), strict=True))


def with_noise(
    jaxpr: Any, arguments: Sequence[Any], noise: Sequence[Any], known: dict[Any, Any] | None = None
) -> list[Any]:
    """What a closed jaxpr gives for `arguments`, keys among them being None, and this noise.

    `known` are its `known_values`, where they need not be computed again.
    """
    given = iter(noise)
    outputs = _evaluate(jaxpr, arguments, given, None, known or {})
    assert next(given, None) is None  # `noise_of` listed no more than is used
    return outputs


def drawn_noise(jaxpr: Any, arguments: Sequence[Any]) -> list[jax.Array]:
    """The noise that a closed jaxpr draws with the keys among its `arguments`."""
    drawn: list[jax.Array] = []
    _evaluate(jaxpr, arguments, None, drawn)
    return drawn


def _evaluate(
    closed: Any,
    arguments: Sequence[Any],
    given: Iterator[Any] | None,
    drawn: list[Any] | None,
    known: dict[Any, Any] | None = None,
) -> list[Any]:
    """The outputs of a jaxpr; noise comes from `given`, or is drawn and added to `drawn`."""
    values = dict(known or {})
    values |= zip(closed.jaxpr.constvars, closed.consts, strict=True)
    values |= zip(closed.jaxpr.invars, arguments, strict=True)

    def value_of(variable):
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in closed.jaxpr.eqns:
        if all(variable in values for variable in equation.outvars):
            continue
        operands = [value_of(variable) for variable in equation.invars]
        results = _results(equation, operands, given, drawn)
        values |= zip(equation.outvars, results, strict=True)
    return [value_of(variable) for variable in closed.jaxpr.outvars]


def _results(
    equation: Any, operands: list[Any], given: Iterator[Any] | None, drawn: list[Any] | None
) -> list[Any]:
    inner = _inner(equation)
    if _distribution(equation) is not None:
        if given is not None:
            return [next(given)]
        assert drawn is not None
        drawn += _bind(equation, operands)
        return drawn[-1:]
    if equation.primitive.name == "optimization_barrier":
        return operands
    if given is not None and _touches_keys(equation) and inner is None:
        return [_KEY] * len(equation.outvars)
    if inner is None:
        return _bind(equation, operands)
    if equation.primitive.name == "scan":
        return _unrolled(equation, operands, given, drawn)
    return _evaluate(inner, operands, given, drawn)


def _unrolled(
    scan: Any, operands: list[Any], given: Iterator[Any] | None, drawn: list[Any] | None
) -> list[Any]:
    """A scan's results, iteration by iteration."""
    body, length = scan.params["jaxpr"], scan.params["length"]
    first, last = scan.params["num_consts"], scan.params["num_consts"] + scan.params["num_carry"]
    constants, carry, rows = operands[:first], operands[first:last], operands[last:]
    stacked = [next(given) for _ in noise_of(body.jaxpr)] if given is not None else []
    results: dict[int, list[Any]] = {}
    recorded: dict[int, list[Any]] = {}
    order = range(length)
    for index in reversed(order) if scan.params["reverse"] else order:
        row, noise = ([_row(array, index) for array in arrays] for arrays in (rows, stacked))
        recorded[index] = []
        inside = iter(noise) if given is not None else None
        outputs = _evaluate(body, [*constants, *carry, *row], inside, recorded[index])
        carry, results[index] = outputs[: len(carry)], outputs[len(carry) :]
    if drawn is not None:
        drawn += _stack([recorded[index] for index in order])
    return [*carry, *_stack([results[index] for index in order])]


def _row(array: Any, index: int) -> Any:
    return _KEY if array is _KEY else jax.lax.index_in_dim(array, index, keepdims=False)


def _stack(rows: list[list[Any]]) -> list[Any]:
    return [jnp.stack(column) for column in zip(*rows, strict=True)]


def _bind(equation: Any, operands: list[Any]) -> list[Any]:
    result = equation.primitive.bind(*operands, **equation.params)
    return list(result) if equation.primitive.multiple_results else [result]


def _inner(equation: Any) -> Any:
    """The closed jaxpr of a call or a scan; None for other equations."""
    if equation.primitive.name in ("jit", "pjit", "closed_call", "scan"):
        return equation.params["jaxpr"]
    if equation.primitive.name in ("custom_jvp_call", "custom_vjp_call"):
        return equation.params["call_jaxpr"]
    return None


def _distribution(equation: Any) -> str | None:
    """What an equation draws; None where it draws nothing that could be an input."""
    if not any(map(_is_key, equation.invars)):
        return None
    return _DRAWS.get(equation.params.get("name", ""))


def _derives_keys(equation: Any) -> bool:
    """Whether an equation makes keys of keys and does nothing else."""
    return any(map(_is_key, equation.invars)) and all(map(_is_key, equation.outvars))


def _touches_keys(equation: Any) -> bool:
    return any(map(_is_key, (*equation.invars, *equation.outvars)))


def _is_key(variable: Any) -> bool:
    return jnp.issubdtype(variable.aval.dtype, jax.dtypes.prng_key)
