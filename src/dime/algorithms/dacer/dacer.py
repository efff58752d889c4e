"""DACER: diffusion actor-critic with entropy regulator (Wang et al., NeurIPS 2024).

A denoising policy follows the critics' gradient through its whole chain; noise is added to its
actions, as much as an estimate of the policy's entropy asks for.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dime.algorithms.algorithm import Algorithm, AlgorithmConfig
from dime.algorithms.dacer.gaussian import (
    GaussianHead,
    GaussianReturn,
    follow_spread,
    gaussian_loss,
    gaussian_target,
)
from dime.algorithms.dacer.mixture_entropy import mean_mixture_entropy
from dime.critics.critics import CriticState, critic_outputs
from dime.critics.target import TargetCriticConfig
from dime.errors import require, require_at_least, require_positive
from dime.networks.activations import mish
from dime.networks.chain_networks import Denoiser
from dime.networks.embeddings import SinusoidalFeatures, sinusoidal_frequencies
from dime.networks.initializers import truncated_normal_with
from dime.optimizers import TrainState
from dime.policies.ddpm import DdpmPolicy, DdpmPolicyConfig
from dime.types import Agent, EnvSpec, Metrics
from dime.updates.action_modes import chain_modes
from dime.updates.temperature import EntropyTemperatureConfig, Temperature, log_temperature_loss

_START = truncated_normal_with(1.0)


@dataclass(frozen=True)
class NoiseConfig(EntropyTemperatureConfig):
    """The noise added to actions: `std_per_scale` times a learnt scale."""

    initial: float = 3.0
    """Initial scale (released code)."""
    learning_rate: float = 0.03
    """Adam's learning rate for the log scale (DIME, table 2)."""
    target_entropy_per_dim: float = -0.9
    """Target of the estimated entropy, in nats per action dimension (DIME, table 2)."""
    std_per_scale: float = 0.1
    """Noise standard deviation at scale 1 (released code; 0.15 on Humanoid and HalfCheetah)."""
    estimate_every: int = 10_000
    """Updates between estimates of the entropy."""
    num_actions: int = 200
    """Actions per state to which a Gaussian mixture is fitted."""
    num_components: int = 3
    """Components of the mixture."""

    def __post_init__(self):
        super().__post_init__()
        require_positive(self, "std_per_scale")
        require_at_least(self, 1, "estimate_every", "num_components")
        require(
            2 <= self.num_actions < 2**31 and self.num_actions >= self.num_components,
            f"num_actions is {self.num_actions}; it must be at least 2 and num_components, "
            f"{self.num_components}.",
        )


@dataclass(frozen=True)
class DacerConfig(AlgorithmConfig):
    """Everything that DACER's mathematics depends on; the defaults are DIME's table 2."""

    policy: DdpmPolicyConfig = field(
        default_factory=lambda: DdpmPolicyConfig(num_denoising_steps=20)
    )
    critic: TargetCriticConfig = field(
        default_factory=lambda: TargetCriticConfig(num_hidden_layers=3)
    )
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    reward_scale: float = 0.2
    """Factor by which all rewards are multiplied (released code)."""
    policy_delay: int = 2
    """Critic updates per update of the policy and the target parameters."""

    def __post_init__(self):
        super().__post_init__()
        require_positive(self, "reward_scale")
        require_at_least(self, 1, "policy_delay")


_POLICY_METRICS = ("policy_loss", "policy_gradient_norm")


class DacerState(NamedTuple):
    """What training changes."""

    policy: TrainState
    critics: CriticState
    spread: Float[Array, " critics"]  # running mean of the critics' standard deviations
    noise_scale: Temperature
    entropy_per_dim: Float[Array, ""]  # the last estimate
    policy_metrics: Metrics  # of the last policy update, zeros before the first


def dacer(config: DacerConfig, spec: EnvSpec) -> Agent:
    """The algorithm for an environment of the given sizes."""
    critics = config.critic.make(spec, GaussianHead(), mish, _START)
    policy_optimizer = config.policy.make_optimizer()
    target_cost = -config.noise.target_entropy_per_dim * spec.action_dim

    def init(key) -> DacerState:
        policy_key, critic_key = jax.random.split(key)
        policy = initial_policy(config.policy, spec, policy_key)
        return DacerState(
            policy=TrainState.start(policy, policy_optimizer),
            critics=critics.start(critic_key),
            spread=jnp.zeros(config.critic.num_critics),
            noise_scale=Temperature.start(config.noise),
            entropy_per_dim=jnp.zeros(()),
            policy_metrics={name: jnp.zeros(()) for name in _POLICY_METRICS},
        )

    def update(state: DacerState, batch, key, counters) -> tuple[DacerState, Metrics]:
        critic_key, policy_key, entropy_key = jax.random.split(key, 3)
        transition, obs = batch.transition, batch.transition.obs
        trained, critic_metrics = update_critics(state, transition, critic_key)

        # The policy and the noise follow the critics, policy and noise from before this update.
        after = jax.lax.cond(
            counters.update % config.policy_delay == 0,
            lambda: update_policy(trained, obs, policy_key, before=state),
            lambda: trained,
        )
        after = jax.lax.cond(
            counters.update % config.noise.estimate_every == 0,
            lambda: update_noise(after, obs, entropy_key, before=state),
            lambda: after,
        )
        noise = {
            "noise_std": _noise_std(config, after),
            "policy_entropy_per_dim": after.entropy_per_dim,
        }
        return after, critic_metrics | after.policy_metrics | noise

    def update_critics(state: DacerState, transition, key) -> tuple[DacerState, Metrics]:
        action_key, draw_key = jax.random.split(key)
        next_action = noisy(state, transition.next_obs, action_key)
        next_outputs = critic_outputs(state.critics.slow, transition.next_obs, next_action)
        reward = config.reward_scale * transition.reward
        discount = config.discount * (1.0 - transition.terminated)
        target = gaussian_target(GaussianReturn.of(next_outputs), reward, discount, draw_key)
        target = jax.lax.stop_gradient(target)

        def loss(online):
            outputs = critic_outputs(online, transition.obs, transition.action)
            returns = GaussianReturn.of(outputs)
            spread = jax.lax.stop_gradient(follow_spread(state.spread, returns.std))
            return gaussian_loss(returns, target, spread), (spread, returns)

        new, descent = state.critics.descend(critics.optimizer, loss)
        spread, returns = descent.aux
        return state._replace(critics=new, spread=spread), {
            "critic_loss": descent.loss,
            "critic_gradient_norm": descent.gradient_norm,
            "q_mean": returns.mean.mean(),
            "q_std": returns.std.mean(),
        }

    def update_policy(state: DacerState, obs, key, *, before: DacerState) -> DacerState:
        def loss(policy: DdpmPolicy):
            acting = before._replace(policy=before.policy._replace(module=policy))
            action = noisy(acting, obs, key)
            return -value(before, obs, action).mean(), None

        policy, descent = state.policy.descend(policy_optimizer, loss)
        measured = (descent.loss, descent.gradient_norm)
        return state._replace(
            policy=policy,
            critics=critics.follow(state.critics),
            policy_metrics=dict(zip(_POLICY_METRICS, measured, strict=True)),
        )

    def update_noise(state: DacerState, obs, key, *, before: DacerState) -> DacerState:
        """The scale of the noise, towards the entropy of what is done in each state."""
        action_key, fit_key = jax.random.split(key)
        actions = noisy(before, obs, action_key, config.noise.num_actions)

        # A fixed key for the fit in the released code; a fresh one here.
        entropy = mean_mixture_entropy(actions, config.noise.num_components, fit_key)
        scale = state.noise_scale.step(
            config.noise, lambda log: log_temperature_loss(log, -entropy, target_cost)
        )
        return state._replace(noise_scale=scale, entropy_per_dim=entropy / spec.action_dim)

    def noisy(state: DacerState, obs, key, num: int | None = None):
        chain_key, noise_key = jax.random.split(key)
        action = state.policy.module.sample(obs, chain_key, num)
        noise = _noise_std(config, state) * jax.random.normal(noise_key, action.shape)
        return jnp.clip(action + noise, -1.0, 1.0)

    def value(state: DacerState, obs, action):
        return critics.value(state.critics, obs, action)

    act = {
        "explore": lambda state, obs, key, counters: noisy(state, obs, key),
        "observation_seeded": lambda state, obs, key, counters: (
            state.policy.module.observation_seeded(obs)
        ),
        **chain_modes(value, config.num_action_candidates),
    }
    return Agent(init=init, act=act, update=update)


def initial_policy(config: DdpmPolicyConfig, spec: EnvSpec, key) -> DdpmPolicy:
    """The policy at the start of training."""

    def features(key):
        frequencies = sinusoidal_frequencies(8, 8)
        return SinusoidalFeatures(frequencies, (32, 16), key, _START, scale=0.25)

    return DdpmPolicy(
        Denoiser(spec, config.hidden, features, key, _START), config.num_denoising_steps
    )


def _noise_std(config: DacerConfig, state: DacerState) -> Array:
    return config.noise.std_per_scale * state.noise_scale.value


def _network_evaluations(settings: DacerConfig) -> tuple[int, int]:
    steps = settings.policy.num_denoising_steps
    return steps, steps * (2 + settings.noise.num_actions)  # target, policy, entropy


DACER = Algorithm(
    name="dacer",
    paper="Wang et al., NeurIPS 2024",
    year=2024,
    policy="denoising chain with added noise",
    critic="Gaussian x2, target networks",
    make=dacer,
    config=DacerConfig,
    network_evaluations=_network_evaluations,
    modes=("observation_seeded", "stochastic", "deterministic", "best_of_n"),
)
