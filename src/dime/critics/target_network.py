"""The critics of SAC and most who came after: perceptrons, and slow copies for the target."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from dime.errors import require, require_at_least, require_positive
from dime.networks.mlp import Mlp
from dime.types import EnvSpec


@dataclass(frozen=True)
class TargetCriticConfig:
    """The critics and how fast their copies follow."""

    hidden_dim: int = 256
    """Width of the hidden layers."""
    num_hidden_layers: int = 2
    """Hidden layers."""
    num_critics: int = 2
    """Critics, of which the smallest value counts."""
    learning_rate: float = 3e-4
    """Of Adam."""
    target_rate: float = 0.005
    """How far the copies move towards the critics in each update, in (0, 1]."""

    def __post_init__(self):
        require_at_least(self, 1, "hidden_dim", "num_hidden_layers", "num_critics")
        require_positive(self, "learning_rate")
        rate = self.target_rate
        require(0.0 < rate <= 1.0, f"target_rate is {rate}; it must be in (0, 1].")

    def make_optimizer(self) -> optax.GradientTransformation:
        """Adam."""
        return optax.adam(self.learning_rate)


def init_critics(
    config: TargetCriticConfig,
    output_dim: int,
    spec: EnvSpec,
    activation: Callable[[Array], Array],
    key: Key[Array, ""],
) -> Mlp:
    """`config.num_critics` critics, stacked along a leading axis."""
    hidden = [config.hidden_dim] * config.num_hidden_layers
    sizes = (spec.obs_dim + spec.action_dim, *hidden, output_dim)
    keys = jax.random.split(key, config.num_critics)
    return jax.vmap(lambda critic_key: Mlp(sizes, activation, critic_key))(keys)


def critic_outputs(
    critics: Mlp, obs: Float[Array, "*batch obs"], action: Float[Array, "*batch act"]
) -> Float[Array, "critics *batch out"]:
    """Every critic's output."""
    pairs = jnp.concatenate([obs, action], axis=-1)
    return jax.vmap(lambda critic: critic(pairs))(critics)


def follow(target: PyTree, online: PyTree, rate: float) -> PyTree:
    """The copy moved towards the online parameters: `(1 - rate) * target + rate * online`."""
    return optax.incremental_update(online, target, rate)
