"""The critics of SAC and most who came after: slow copies stand in the target."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from dime.critics.head_config import HeadConfig
from dime.errors import require_at_least, require_rate
from dime.networks.initializers import Start, lecun
from dime.networks.mlp import Mlp
from dime.optimizers import AdamConfig
from dime.types import EnvSpec


@dataclass(frozen=True)
class TargetCriticConfig(AdamConfig):
    """The critics and how fast their copies follow."""

    hidden_dim: int = 256
    """Width of the hidden layers."""
    num_hidden_layers: int = 2
    """Hidden layers."""
    num_critics: int = 2
    """Critics; the smallest value counts, of categorical ones the mean."""
    target_rate: float = 0.005
    """How far the copies move towards the critics in each update, in (0, 1]."""

    def __post_init__(self):
        super().__post_init__()
        require_at_least(self, 1, "hidden_dim", "num_hidden_layers", "num_critics")
        require_rate(self, "target_rate")

    def sizes(self, spec: EnvSpec, output_dim: int) -> tuple[int, ...]:
        """Widths of a critic, from the pair of observation and action to the output."""
        hidden = [self.hidden_dim] * self.num_hidden_layers
        return (spec.obs_dim + spec.action_dim, *hidden, output_dim)


@dataclass(frozen=True)
class HeadedTargetCriticConfig(TargetCriticConfig, HeadConfig):
    """The same, plain or with a distribution of returns."""

    def __post_init__(self):
        TargetCriticConfig.__post_init__(self)
        HeadConfig.__post_init__(self)


class TargetCritics(NamedTuple):
    """Critics stacked along a leading axis, their slow copies, and the optimiser's state."""

    online: Any
    slow: Any
    optimizer: Any

    @classmethod
    def start(cls, online: Any, optimizer: optax.GradientTransformation) -> "TargetCritics":
        """The copies begin as the critics are."""
        return cls(online, jax.tree.map(jnp.copy, online), optimizer.init(online))

    def followed(self, rate: float) -> "TargetCritics":
        """After the copies have moved towards the critics."""
        return self._replace(slow=follow(self.slow, self.online, rate))


def stacked(make: Callable[[Key[Array, ""]], Any], num: int, key: Key[Array, ""]) -> Any:
    """`num` critics along a leading axis, each from a key of its own."""
    return jax.vmap(make)(jax.random.split(key, num))


def init_critics(
    config: TargetCriticConfig,
    sizes: tuple[int, ...],
    activation: Callable[[Array], Array],
    key: Key[Array, ""],
    start: Start = lecun,
) -> TargetCritics:
    """`config.num_critics` perceptrons of the given widths."""
    online = stacked(lambda one: Mlp(sizes, activation, one, start), config.num_critics, key)
    return TargetCritics.start(online, config.make_optimizer())


def critic_outputs(
    critics: Any, obs: Float[Array, "*batch obs"], action: Float[Array, "*draws act"]
) -> Float[Array, "critics *draws out"]:
    """Every critic's output; `action` may lead with an axis of draws for each observation."""
    obs = jnp.broadcast_to(obs, (*action.shape[:-1], obs.shape[-1]))
    pairs = jnp.concatenate([obs, action], axis=-1)
    return jax.vmap(lambda critic: critic(pairs))(critics)


def follow(slow: Any, online: Any, rate: float) -> Any:
    """The copy moved towards the online parameters: `(1 - rate) * slow + rate * online`."""
    return optax.incremental_update(online, slow, rate)
