"""How often an algorithm's update evaluates its policy's network.

Counted in the traced program, so it is what is run and not what a formula says.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

from dime.algorithms.algorithm import Algorithm
from dime.training.config import replace_nested
from dime.types import Batch, Counters, EnvSpec, Transition


class Costs(NamedTuple):
    """Of one update: in every one of them, and in one where everything is due that ever is."""

    least: float
    most: float


def network_evaluations(algorithm: Algorithm, settings: Any) -> Costs:
    """How often an update evaluates the policy's network for each row of a minibatch.

    Forward passes of every network that makes actions, slow copies and exploring actors too; a
    backward pass is not counted.
    """
    rows, spec = 2, EnvSpec(5, 3, 8)
    agent = algorithm.make(_narrow(settings), spec)
    state = jax.eval_shape(agent.init, jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path(state)
    is_output = [_is_output_kernel(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
    batch = _example_batch(rows * agent.batches_per_update, spec)
    count = jnp.zeros((), jnp.int32)
    traced = jax.make_jaxpr(agent.update)(
        state, batch, jax.random.key(0), Counters(count, count)
    ).jaxpr
    tracked = {v for v, wanted in zip(traced.invars, is_output, strict=False) if wanted}

    def of_dot(equation, tracked):
        right = equation.invars[1]
        (_, contracted), _ = equation.params["dimension_numbers"]
        if right not in tracked or contracted != (0,):  # else a backward pass
            return 0.0
        output = equation.outvars[0].aval
        return output.size / output.shape[-1] / rows

    return _count(traced, tracked, of_dot)


def _narrow(settings: Any) -> Any:
    """The settings with other widths than batches and actions have, so that nothing is mixed up."""
    narrow = {"hidden_dim": 16}
    changes: dict[str, Any] = {"policy": narrow, "critic": narrow}
    if hasattr(settings.critic, "v_min"):
        changes["critic"] = narrow | {"v_min": -1.0, "v_max": 1.0}
    return replace_nested(settings, changes)


def _is_output_kernel(path: str, leaf: Any) -> bool:
    makes_actions = ("policy" in path or "explorer" in path) and "optimizer" not in path
    is_last = leaf.ndim == 2 and leaf.shape[-1] in (3, 6) and "log_std" not in path
    return makes_actions and is_last


def _example_batch(rows: int, spec: EnvSpec) -> Batch:
    obs, action = jnp.zeros((rows, spec.obs_dim)), jnp.zeros((rows, spec.action_dim))
    reward = jnp.zeros(rows)
    transition = Transition(obs, action, reward, obs, reward > 0.0)
    return Batch(transition, jnp.zeros(rows, jnp.int32))


Cost = Callable[[Any, set[Any]], float]


def _count(jaxpr: Jaxpr, tracked: set[Any], of_dot: Cost) -> Costs:
    """The costs of all matrix products.

    `tracked` variables are followed into inner programs and, where those pass them on, out again;
    and through what leaves their shape alone, as an optimiser's step does.
    """
    least = most = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            cost = of_dot(equation, tracked)
            least, most = least + cost, most + cost
            continue
        inner = []
        for body in _bodies(equation):
            inside = _inside(equation, body, tracked)
            inner.append(_count(body, inside, of_dot))
            passed_on = zip(equation.outvars, body.outvars, strict=False)
            tracked |= {outer for outer, variable in passed_on if _is_in(variable, inside)}
        if not inner:
            shapes = {_shape(v) for v in equation.invars if _is_in(v, tracked)}
            tracked |= {v for v in equation.outvars if _shape(v) in shapes}
            continue
        if equation.primitive.name == "cond":
            least += min(cost.least for cost in inner)
            most += max(cost.most for cost in inner)
        else:
            times = equation.params["length"] if equation.primitive.name == "scan" else 1
            least += times * sum(cost.least for cost in inner)
            most += times * sum(cost.most for cost in inner)
    return Costs(least, most)


def _bodies(equation: Any) -> Iterator[Jaxpr]:
    for value in equation.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, Jaxpr):
                yield part


def _inside(equation: Any, body: Jaxpr, tracked: set[Any]) -> set[Any]:
    """The tracked variables under their names in an inner program, whose arguments come last."""
    given = equation.invars[len(equation.invars) - len(body.invars) :]
    pairs = zip(body.invars, given, strict=False)
    return {inner for inner, outer in pairs if _is_in(outer, tracked)}


def _shape(variable: Any) -> tuple[int, ...]:
    return getattr(variable.aval, "shape", ())


def _is_in(variable: Any, tracked: set[Any]) -> bool:
    return not hasattr(variable, "val") and variable in tracked  # literals have a value
