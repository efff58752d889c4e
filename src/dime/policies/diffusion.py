"""DIME's policy: a denoising chain, and a bound on its entropy.

Equation numbers: Celik et al. 2025. A general bridge (its appendix F) has a second control, in the
noising kernel.
"""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dime.diffusion.controlled_sde import (
    Chain,
    Control,
    gaussian_log_prob,
    inverse_softplus,
    learnt_step_sizes,
    log_ratio_of,
    no_control,
    sample_chain,
)
from dime.errors import Count, Fraction, Positive
from dime.networks.chain_networks import ControlNetwork
from dime.optimizers import NetworkConfig
from dime.policies.tanh_gaussian import tanh_log_det
from dime.types import EnvSpec, Metrics, Sample


@dataclass(frozen=True)
class DiffusionPolicyConfig(NetworkConfig):
    """The denoising chain and its network."""

    num_denoising_steps: Count = 16
    """Length of the chain, at least 1 (paper, table 2)."""
    prior_std: Positive = 2.5
    """Standard deviation of the prior, the 2.5 in the paper's N(0, 2.5), in latent units."""
    initial_step_scale: Positive = 0.1
    """Initial integrated diffusion of the first step, the largest (released code)."""
    hidden_dim: Count = 256
    """Width of the hidden layers and of the step embedding (paper, table 2)."""
    num_hidden_layers: Count = 3
    """Number of hidden layers (paper, table 2)."""
    adam_b1: Fraction = 0.5
    """Adam's decay rate of the first moment, in [0, 1) (released code)."""
    max_gradient: float | None = 1.0
    """Clip each entry of the gradient to +- this value; None: no clipping (released code)."""

    def make(self, spec: EnvSpec, key: Key[Array, ""]) -> "DiffusionPolicy":
        """The policy at the start of training."""
        return DiffusionPolicy(self, spec, key)


@dataclass(frozen=True)
class BridgePolicyConfig(DiffusionPolicyConfig):
    """The same, with a second network of the same sizes in the noising kernel (appendix F)."""

    def make(self, spec: EnvSpec, key: Key[Array, ""]) -> "DiffusionPolicy":
        """The policy at the start of training."""
        noising_key = jax.random.fold_in(key, 1)  # the policy starts as DIME's of the same key
        policy = DiffusionPolicy(self, spec, key)
        sizes = (spec.obs_dim, spec.action_dim, self.hidden_dim, self.num_hidden_layers)
        noising = ControlNetwork(*sizes, noising_key)
        return eqx.tree_at(
            lambda p: p.noising_control, policy, noising, is_leaf=lambda leaf: leaf is None
        )


class DiffusionPolicy(eqx.Module):
    """`action = tanh(u_N)`, u_N the end of a denoising chain that starts at N(0, prior_std^2).

    The control network (of a general bridge also the one in the noising kernel), one scale of the
    chain's step sizes and one divisor per action dimension are trained. An untrained policy is
    close to tanh(N(0, prior_std^2)), nearly bang-bang: DIME's exploration at the start.
    """

    control: ControlNetwork
    noising_control: ControlNetwork | None
    raw_step_scale: Float[Array, ""]
    raw_dim_divisor: Float[Array, " act"]
    num_denoising_steps: int = eqx.field(static=True)
    prior_std: float = eqx.field(static=True)

    def __init__(self, config: DiffusionPolicyConfig, spec: EnvSpec, key: Key[Array, ""]):
        self.control = ControlNetwork(
            spec.obs_dim, spec.action_dim, config.hidden_dim, config.num_hidden_layers, key
        )
        self.noising_control = None
        self.raw_step_scale = inverse_softplus(config.initial_step_scale)
        self.raw_dim_divisor = jnp.full(spec.action_dim, inverse_softplus(1.0), jnp.float32)
        self.num_denoising_steps = config.num_denoising_steps
        self.prior_std = config.prior_std

    def step_sizes(self) -> Float[Array, "steps act"]:
        """Integrated diffusion eta_n of each step and action dimension."""
        return learnt_step_sizes(
            self.raw_step_scale, self.raw_dim_divisor, self.num_denoising_steps
        )

    def diffusion_scale(self) -> Float[Array, " act"]:
        """The learnt diffusion of each action dimension, whose course figure 7 shows."""
        return jax.nn.softplus(self.raw_step_scale) / jax.nn.softplus(self.raw_dim_divisor)

    def chain(
        self,
        obs: Float[Array, "*batch obs"],
        prior_draw: Float[Array, "*batch act"],
        noise: Float[Array, "steps *batch act"],
    ) -> Chain:
        """The denoising chain of these observations for a given prior draw and given noise."""
        control, noising_control = self._controls(obs)
        return sample_chain(
            control, self.step_sizes(), self.prior_std, prior_draw, noise, noising_control
        )

    def _controls(self, obs: Float[Array, "*batch obs"]) -> tuple[Control, Control]:
        control = self.control.bind(obs, self.num_denoising_steps)
        if self.noising_control is None:
            return control, no_control
        return control, self.noising_control.bind(obs, self.num_denoising_steps + 1)

    def draw(self, obs: Float[Array, "*batch obs"], key: Key[Array, ""]) -> Chain:
        """A chain for each observation."""
        prior_key, noise_key = jax.random.split(key)
        shape = (*obs.shape[:-1], self.raw_dim_divisor.shape[-1])
        prior_draw = self.prior_std * jax.random.normal(prior_key, shape)
        noise = jax.random.normal(noise_key, (self.num_denoising_steps, *shape))
        return self.chain(obs, prior_draw, noise)

    def sample(self, obs: Float[Array, "*batch obs"], key: Key[Array, ""]) -> Sample:
        """One action per observation, and the one-sample value of the bound on its log density.

        `log_prob = -(log_ratio + log |d tanh|) + log prior` (eqs. 15 and 59): its mean is at
        least E[log pi(a|s)], so minus its mean is a lower bound of the entropy, in nats.
        Gradients run through the whole chain.
        """
        return self.weigh(self.draw(obs, key))

    def sample_detached(self, obs: Float[Array, "*batch obs"], key: Key[Array, ""]) -> Sample:
        """As `sample`, but gradients run through the controls' densities of a fixed path only.

        The path and the step sizes carry none: what a log-variance loss needs.
        """
        latents = jax.lax.stop_gradient(self.draw(obs, key).latents)
        step_sizes = jax.lax.stop_gradient(self.step_sizes())
        control, noising_control = self._controls(obs)
        log_ratio = log_ratio_of(control, step_sizes, self.prior_std, latents, noising_control)
        return self.weigh(Chain(latents, log_ratio))

    def weigh(self, chain: Chain) -> Sample:
        """The action at the end of a chain and the bound's one-sample value."""
        prior_draw, latent = chain.latents[0], chain.latents[-1]
        log_prior = gaussian_log_prob(prior_draw, 0.0, self.prior_std**2)
        running_cost = -(chain.log_ratio + tanh_log_det(latent))
        return Sample(jnp.tanh(latent), running_cost + log_prior, log_prior)

    def deterministic(self, obs: Float[Array, "*batch obs"]) -> Float[Array, "*batch act"]:
        """The action of the noiseless chain from the prior's mean: the deterministic mode."""
        shape = (*obs.shape[:-1], self.raw_dim_divisor.shape[-1])
        noise = jnp.zeros((self.num_denoising_steps, *shape))
        return jnp.tanh(self.chain(obs, jnp.zeros(shape), noise).latents[-1])

    def metrics(self) -> Metrics:
        """What is worth recording: step sizes (mean over the dimensions), scales (figure 7)."""
        return {
            "step_sizes": self.step_sizes().mean(axis=-1),
            "diffusion_scale": self.diffusion_scale(),
        }
