"""What matrix products of lower precision do to the golden numbers.

    python -m tests.golden.precision --json benchmarks/results/precision.json

On a GPU the products are the device's own. On a CPU, which has float32 alone, their inputs are
rounded to the bits that TensorFloat32 (10) and bfloat16 (7) keep; sums are float32 in both.
"""

import argparse
import itertools
import json
from pathlib import Path

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.extend.core.primitives import dot_general_p, scan_p

from dime.training.config import TrainingConfig
from dime.training.host.programs import matmul_precision
from tests.golden.arrays import FILES, Golden, backup_of, policy_loss, transition_of
from tests.joint_critics import joint_critic_loss

MANTISSA_BITS = {"float32": 23, "tensorfloat32": 10, "bfloat16": 7}


def rounded(function, bits):
    """`function` (also a gradient), with the inputs of its matrix products rounded."""

    def changed(*arguments):
        traced, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        results = _evaluate(traced, jax.tree.leaves(arguments), bits)
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return changed


def _evaluate(closed, arguments, bits):
    jaxpr = closed.jaxpr
    values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    values |= dict(zip(jaxpr.invars, arguments, strict=True))

    def read(atom):
        return atom.val if hasattr(atom, "val") else values[atom]

    for equation in jaxpr.eqns:
        inputs, params = [read(atom) for atom in equation.invars], equation.params
        inner = next((part for part in params.values() if isinstance(part, ClosedJaxpr)), None)
        if equation.primitive is dot_general_p:
            inputs = [jax.lax.reduce_precision(x, 8, bits) for x in inputs]
        if "branches" in params or "cond_jaxpr" in params:
            raise NotImplementedError(f"{equation.primitive} has products that are not rounded")
        if equation.primitive is scan_p:
            shapes = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in inner.in_avals]
            body = jax.make_jaxpr(lambda *args, inner=inner: _evaluate(inner, args, bits))(*shapes)
            outputs = scan_p.bind(*inputs, **params | {"jaxpr": body})
        elif inner is not None:
            outputs = _evaluate(inner, inputs, bits)
        else:
            outputs = equation.primitive.bind(*inputs, **params)
            outputs = outputs if equation.primitive.multiple_results else [outputs]
        values |= dict(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def quantities(golden):
    """By name: a function, its argument, and the authors' numbers."""
    policy, critics = golden.policy("actor/"), golden.critics("critic/")
    draw, noise = golden["pi/chain"][0], golden["pi/eps"]

    def sample(policy):
        return policy.weigh(policy.chain(golden["obs"], draw, noise))

    def critic_loss(critics):
        loss, _ = joint_critic_loss(
            critics,
            golden.critic_stats("warm/bn_before/"),
            transition_of(golden),
            golden["next/action"],
            backup_of(golden),
            golden.critic_config.make_head(),
        )
        return loss

    def loss_of_policy(policy):
        return policy_loss(policy, golden)

    return {
        "action": (lambda p: sample(p).action, policy, golden["pi/action"]),
        "running cost": (lambda p: sample(p).running_cost, policy, golden["pi/run_cost"]),
        "critic loss": (critic_loss, critics, golden["warm/critic_loss"]),
        "critic gradient": (jax.grad(critic_loss), critics, golden.critics("warm/critic_grad/")),
        "policy loss": (loss_of_policy, policy, golden["actor_upd/loss"]),
        "policy gradient": (
            jax.grad(loss_of_policy),
            policy,
            golden.policy("actor_upd/grad/"),
        ),
    }


def relative_error(found, expected):
    """Length of the difference over the length of what is expected, all arrays as one vector."""
    found, expected = (
        np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])
        for tree in (found, expected)
    )
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def measure(golden, precision):
    """Relative errors by quantity."""
    on_cpu = jax.default_backend() == "cpu"
    errors = {}
    for name, (function, argument, expected) in quantities(golden).items():
        if on_cpu:
            found = jax.jit(rounded(function, MANTISSA_BITS[precision]))(argument)
        else:
            with matmul_precision(TrainingConfig(matmul_precision=precision), "gpu"):
                found = jax.jit(function)(argument)
        errors[name] = relative_error(found, expected)
    return errors


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    names = [file.stem for file in FILES]
    parser.add_argument("--files", nargs="+", choices=names, default=names)
    parser.add_argument("--precisions", nargs="+", choices=MANTISSA_BITS, default=[*MANTISSA_BITS])
    options = parser.parse_args()
    device = jax.devices()[0].device_kind
    figures = {"device": device, "emulated": device == "cpu", "jax": jax.__version__, "files": {}}
    for file, precision in itertools.product(FILES, options.precisions):
        if file.stem not in options.files:
            continue
        with np.load(file) as arrays:
            errors = measure(Golden(dict(arrays)), precision)
        figures["files"].setdefault(file.stem, {})[precision] = errors
        print(file.stem, precision, {name: f"{e:.1e}" for name, e in errors.items()}, flush=True)
        if options.json:  # after each: a machine may be taken back
            options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
