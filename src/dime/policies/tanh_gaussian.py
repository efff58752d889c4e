"""The policy of SAC: a diagonal Gaussian squashed by tanh (Haarnoja et al. 2018, appendix C)."""

from collections.abc import Callable
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dime.networks.layers import Mlp, gelu
from dime.optimizers import NetworkConfig
from dime.types import EnvSpec, Metrics, Sample


def tanh_log_det(latent: Float[Array, "*batch act"]) -> Float[Array, "*batch"]:
    """Log determinant of tanh's Jacobian, `sum log(1 - tanh(u)^2)`, in nats (DIME eq. 59).

    In the form that does not cancel for large latents.

    >>> float(tanh_log_det(jnp.array([0.0, 50.0]))).__round__(3)
    -98.614
    """
    return 2.0 * (jnp.log(2.0) - latent - jax.nn.softplus(-2.0 * latent)).sum(axis=-1)


MIN_LOG_STD, MAX_LOG_STD = -20.0, 2.0


class TanhGaussian(eqx.Module):
    """The distribution of `tanh(mean + std * noise)`."""

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
class GaussianPolicyConfig(NetworkConfig):
    """The network that outputs mean and standard deviation."""

    def make(
        self, spec: EnvSpec, key: Key[Array, ""], activation: Callable[[Array], Array] = gelu
    ) -> "GaussianPolicy":
        """The policy at the start of training."""
        sizes = (spec.obs_dim, *self.hidden, 2 * spec.action_dim)
        return GaussianPolicy(Mlp(sizes, activation, key))


class GaussianPolicy(eqx.Module):
    """A tanh-Gaussian whose mean and standard deviation come from a perceptron."""

    network: Mlp

    def distribution(self, obs: Float[Array, "*batch obs"]) -> TanhGaussian:
        """The distribution of the action."""
        return TanhGaussian.from_output(self.network(obs))

    def sample(self, obs: Float[Array, "*batch obs"], key: Key[Array, ""]) -> Sample:
        """One action per observation and its exact log density, in nats."""
        return self.distribution(obs).sample(key)

    def deterministic(self, obs: Float[Array, "*batch obs"]) -> Float[Array, "*batch act"]:
        """The mode's action."""
        return self.distribution(obs).mode()

    def metrics(self) -> Metrics:
        """Nothing that does not depend on an observation."""
        return {}
