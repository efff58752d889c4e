"""A module's leaves are exactly its trainable parameters.

Whatever else it holds is a static number, string or tuple: an array constant that is a leaf would
be trained, an array in a static field would break hashing under jit.
"""

import dataclasses
import importlib
import inspect
import pkgutil

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dime
from dime.algorithms.bro.explorer import BroNetConfig, BroPolicy, OptimismConfig, OptimisticShift
from dime.algorithms.bro.networks import BroNet, BroTrunk, LayerNorm, ResidualBlock
from dime.algorithms.dipo import ActionMemory
from dime.critics.critics import CriticConfig
from dime.networks.batch_renorm import BatchRenorm, BatchRenormMlp, RunningStats
from dime.networks.chain_networks import (
    ControlNetwork,
    Denoiser,
    LearntFourierFeatures,
    SinusoidalFeatures,
    StepEmbedding,
)
from dime.networks.layers import Dense, Mlp
from dime.policies.consistency import ConsistencyPolicy
from dime.policies.ddpm import DdpmPolicy
from dime.policies.diffusion import DiffusionPolicy, DiffusionPolicyConfig
from dime.policies.tanh_gaussian import GaussianPolicy, GaussianPolicyConfig, TanhGaussian
from dime.types import Batch, EnvSpec, Transition
from tests.joint_critics import init_critics

SPEC = EnvSpec(obs_dim=3, action_dim=2)
POLICY = DiffusionPolicyConfig(num_denoising_steps=4, hidden_dim=8)
CRITIC = CriticConfig(v_min=-1.0, v_max=1.0, hidden_dim=16, num_atoms=7)
PURE_LAYERS = ["networks", "diffusion", "policies", "critics", "updates", "algorithms", "types"]
DATA = {
    RunningStats,
    Transition,
    Batch,
    TanhGaussian,
    ActionMemory,
}  # arrays that go in and come out, none of them trained


def key():
    return jax.random.key(0)


def features(key):
    return SinusoidalFeatures((1.0, 0.1), (6, 4), key)


def denoiser():
    return Denoiser(SPEC, (8,), features, key())


EXAMPLES = {
    Dense: lambda: Dense(3, 4, key()),
    StepEmbedding: lambda: StepEmbedding(4, key()),
    ControlNetwork: lambda: ControlNetwork(3, 2, 8, 3, key()),
    BatchRenorm: lambda: BatchRenorm(3),
    DiffusionPolicy: lambda: DiffusionPolicy(POLICY, SPEC, key()),
    BatchRenormMlp: lambda: BatchRenormMlp((5, 16, 16, 7), 100, key()),
    Mlp: lambda: Mlp((3, 8, 2), jax.nn.relu, key()),
    GaussianPolicy: lambda: GaussianPolicyConfig(hidden_dim=8).make(SPEC, key()),
    SinusoidalFeatures: lambda: features(key()),
    LearntFourierFeatures: lambda: LearntFourierFeatures(6, (8, 4), key()),
    Denoiser: denoiser,
    DdpmPolicy: lambda: DdpmPolicy(denoiser(), 4),
    ConsistencyPolicy: lambda: ConsistencyPolicy(denoiser(), 5, 40),
    LayerNorm: lambda: LayerNorm(3),
    ResidualBlock: lambda: ResidualBlock(8, key()),
    BroTrunk: lambda: BroTrunk(3, 8, 2, key()),
    BroNet: lambda: BroNet((5, 8, 7), 2, key()),
    BroPolicy: lambda: BroPolicy(BroNetConfig(hidden_dim=8), SPEC, key()),
    OptimisticShift: lambda: OptimisticShift(OptimismConfig(hidden_dim=8), SPEC, key()),
}

POLICY_LEAVES = {
    ".control.embedding.phase": (8,),
    ".control.embedding.hidden.kernel": (16, 8),
    ".control.embedding.hidden.bias": (8,),
    ".control.embedding.output.kernel": (8, 8),
    ".control.embedding.output.bias": (8,),
    ".control.hidden[0].kernel": (13, 8),
    ".control.hidden[0].bias": (8,),
    ".control.hidden[1].kernel": (8, 8),
    ".control.hidden[1].bias": (8,),
    ".control.hidden[2].kernel": (8, 8),
    ".control.hidden[2].bias": (8,),
    ".control.output.kernel": (8, 2),
    ".control.output.bias": (2,),
    ".raw_step_scale": (),
    ".raw_dim_divisor": (2,),
}
CRITIC_LEAVES = {
    ".norms[0].scale": (2, 5),
    ".norms[0].bias": (2, 5),
    ".norms[1].scale": (2, 16),
    ".norms[1].bias": (2, 16),
    ".norms[2].scale": (2, 16),
    ".norms[2].bias": (2, 16),
    ".hidden[0].kernel": (2, 5, 16),
    ".hidden[0].bias": (2, 16),
    ".hidden[1].kernel": (2, 16, 16),
    ".hidden[1].bias": (2, 16),
    ".output.kernel": (2, 16, 7),
    ".output.bias": (2, 7),
}


def leaf_shapes(module):
    leaves = jax.tree_util.tree_leaves_with_path(module)
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}


def defined_modules():
    """Every eqx.Module that the layers up to the algorithms define."""
    for info in pkgutil.walk_packages(dime.__path__, "dime."):
        if info.name.split(".")[1] not in PURE_LAYERS:
            continue
        members = vars(importlib.import_module(info.name)).values()
        for member in members:
            if inspect.isclass(member) and issubclass(member, eqx.Module):
                if member.__module__ == info.name:
                    yield member


def test_every_module_is_among_the_examples_or_is_data():
    # One that is new belongs in EXAMPLES if it is trained, in DATA if it is passed around.
    assert set(defined_modules()) == set(EXAMPLES) | DATA


def test_policys_leaves():
    assert leaf_shapes(EXAMPLES[DiffusionPolicy]()) == POLICY_LEAVES


def test_critics_leaves():
    critics, stats = init_critics(CRITIC, CRITIC.make_head().output_dim, SPEC, key())
    assert leaf_shapes(critics) == CRITIC_LEAVES
    running = {f"[{i}]{name}" for i in range(3) for name in (".mean", ".variance", ".num_calls")}
    assert set(leaf_shapes(stats)) == running


@pytest.mark.parametrize("module", EXAMPLES, ids=lambda module: module.__name__)
def test_leaves_are_strongly_typed_float32_arrays(module):
    for leaf in jax.tree.leaves(EXAMPLES[module]()):
        assert isinstance(leaf, jax.Array)
        assert leaf.dtype == jnp.float32
        assert not leaf.weak_type


def parts(module):
    """The module and all modules inside it."""
    yield module
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        for child in value if isinstance(value, tuple) else (value,):
            if isinstance(child, eqx.Module):
                yield from parts(child)


@pytest.mark.parametrize("module", EXAMPLES, ids=lambda module: module.__name__)
def test_static_fields_are_plain_and_hashable(module):
    for part in parts(EXAMPLES[module]()):
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if field.metadata.get("static", False):
                assert callable(value) or isinstance(value, int | float | str | tuple)
                assert not isinstance(value, eqx.Module)
                assert not isinstance(value, np.generic)
                hash(value)
            elif value is not None:  # a general bridge's network, where there is none
                assert jax.tree.leaves(value), f"{field.name} of {part} holds no parameter"


@pytest.mark.parametrize("module", EXAMPLES, ids=lambda module: module.__name__)
def test_modules_pass_through_plain_transformations(module):
    made = EXAMPLES[module]()
    doubled = jax.jit(lambda tree: jax.tree.map(lambda leaf: 2.0 * leaf, tree))(made)
    assert type(doubled) is module
    assert jax.tree.structure(doubled) == jax.tree.structure(made)
    hash(jax.tree.structure(made))
