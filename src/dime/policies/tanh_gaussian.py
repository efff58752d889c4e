"""The policy of SAC: a diagonal Gaussian squashed by tanh (Haarnoja et al. 2018, appendix C)."""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from dime.errors import require_at_least, require_positive, require_unit_interval
from dime.networks.activations import gelu
from dime.networks.mlp import Mlp
from dime.policies.squash import tanh_log_det
from dime.types import EnvSpec, Metrics, Sample

MIN_LOG_STD, MAX_LOG_STD = -20.0, 2.0


class TanhGaussian(eqx.Module):
    """The law of `tanh(mean + std * noise)`."""

    mean: Float[Array, "*batch act"]
    log_std: Float[Array, "*batch act"]

    @classmethod
    def from_output(cls, output: Float[Array, "*batch two_act"]) -> "TanhGaussian":
        """From a network's output: means, then log standard deviations, clipped to [-20, 2]."""
        mean, log_std = jnp.split(output, 2, axis=-1)
        return cls(mean, jnp.clip(log_std, MIN_LOG_STD, MAX_LOG_STD))

    def sample(self, key: Key[Array, ""]) -> Sample:
        """An action of each row and its exact log density, in nats."""
        noise = jax.random.normal(key, self.mean.shape)
        latent = self.mean + jnp.exp(self.log_std) * noise
        # From the noise itself: (latent - mean) / std would cancel where std is small.
        log_density = -0.5 * (noise**2 + jnp.log(2.0 * jnp.pi)) - self.log_std
        log_prob = log_density.sum(axis=-1) - tanh_log_det(latent)
        return Sample(jnp.tanh(latent), log_prob, jnp.zeros_like(log_prob))

    def mode(self) -> Float[Array, "*batch act"]:
        """What its mean is squashed to."""
        return jnp.tanh(self.mean)


@dataclass(frozen=True)
class GaussianPolicyConfig:
    """A perceptron that gives mean and standard deviation, in DIME's setting (its section 5.1)."""

    hidden_dim: int = 256
    """Width of the network (our choice: that of DIME's score network)."""
    num_hidden_layers: int = 3
    """Hidden layers (our choice: as DIME's score network)."""
    learning_rate: float = 3e-4
    """Of Adam (paper, table 2)."""
    adam_b1: float = 0.5
    """Adam's decay of the first moment, in [0, 1) (as for DIME)."""
    max_gradient: float = 1.0
    """Each entry of the gradient is clipped to +- this (as for DIME)."""

    def __post_init__(self):
        require_at_least(self, 1, "hidden_dim", "num_hidden_layers")
        require_positive(self, "learning_rate", "max_gradient")
        require_unit_interval(self, "adam_b1")

    def make(self, spec: EnvSpec, key: Key[Array, ""]) -> "GaussianPolicy":
        """The policy at the start of training."""
        hidden = [self.hidden_dim] * self.num_hidden_layers
        sizes = (spec.obs_dim, *hidden, 2 * spec.action_dim)
        return GaussianPolicy(Mlp(sizes, gelu, key))

    def make_optimizer(self) -> optax.GradientTransformation:
        """Adam after clipping the gradient entry by entry."""
        adam = optax.adam(self.learning_rate, b1=self.adam_b1)
        return optax.chain(optax.clip(self.max_gradient), adam)


class GaussianPolicy(eqx.Module):
    """A tanh-Gaussian whose mean and standard deviation a perceptron makes of the observation."""

    network: Mlp

    def law(self, obs: Float[Array, "*batch obs"]) -> TanhGaussian:
        """The law of the action."""
        return TanhGaussian.from_output(self.network(obs))

    def sample(self, obs: Float[Array, "*batch obs"], key: Key[Array, ""]) -> Sample:
        """One action per observation and its exact log density, in nats."""
        return self.law(obs).sample(key)

    def deterministic(self, obs: Float[Array, "*batch obs"]) -> Float[Array, "*batch act"]:
        """The mode's action."""
        return self.law(obs).mode()

    def metrics(self) -> Metrics:
        """Nothing that does not depend on an observation."""
        return {}
