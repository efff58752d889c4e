"""DACER: diffusion actor-critic with entropy regulator (Wang et al., NeurIPS 2024).

A denoising policy follows the critics' gradient through its whole chain; noise is added to its
actions, as much as an estimate of the policy's entropy asks for.
"""

from dataclasses import dataclass, field
from functools import partial
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
from dime.critics.critics import Critics, CriticState, TargetCriticConfig, critic_outputs
from dime.errors import Count, Finite, Positive, require
from dime.networks.chain_networks import Denoiser, SinusoidalFeatures, sinusoidal_frequencies
from dime.networks.layers import mish, truncated_normal_with
from dime.optimizers import TrainState
from dime.policies.ddpm import DdpmPolicy, DdpmPolicyConfig
from dime.types import Agent, Delayed, EnvSpec, Metrics, Transition
from dime.updates.action_modes import chain_modes
from dime.updates.max_entropy import EntropyTemperatureConfig, Temperature, log_temperature_loss

_START = truncated_normal_with(1.0)


@dataclass(frozen=True)
class NoiseConfig(EntropyTemperatureConfig):
    """The noise added to actions: `std_per_scale` times a learnt scale."""

    initial: Positive = 3.0
    """Initial scale (released code)."""
    learning_rate: Positive = 0.03
    """Adam's learning rate for the log scale (DIME, table 2)."""
    target_entropy_per_dim: Finite = -0.9
    """Target of the estimated entropy, in nats per action dimension (DIME, table 2)."""
    std_per_scale: Positive = 0.1
    """Noise standard deviation at scale 1 (released code; 0.15 on Humanoid and HalfCheetah)."""
    estimate_every: Count = 10_000
    """Updates between estimates of the entropy."""
    num_actions: int = 200
    """Actions per state to which a Gaussian mixture is fitted."""
    num_components: Count = 3
    """Components of the mixture."""

    def __post_init__(self):
        super().__post_init__()
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
    reward_scale: Positive = 0.2
    """Factor by which all rewards are multiplied (released code)."""
    policy_delay: Count = 2
    """Critic updates per update of the policy and the target parameters."""


_POLICY_METRICS = ("policy_loss", "policy_gradient_norm")


class DacerState(NamedTuple):
    """What training changes."""

    policy: TrainState
    critics: CriticState
    spread: Float[Array, " critics"]  # running mean of the critics' standard deviations
    noise_scale: Temperature
    entropy_per_dim: Float[Array, ""]  # the last estimate


def dacer(config: DacerConfig, spec: EnvSpec) -> Agent:
    """The algorithm for an environment of the given sizes."""
    critics = config.critic.make(spec, GaussianHead(), mish, _START)
    policy_optimizer = config.policy.make_optimizer()
    delayed = Delayed(_POLICY_METRICS, lambda update: update % config.policy_delay == 0)

    def init(key) -> DacerState:
        policy_key, critic_key = jax.random.split(key)
        policy = initial_policy(config.policy, spec, policy_key)
        return DacerState(
            policy=TrainState.start(policy, policy_optimizer),
            critics=critics.start(critic_key),
            spread=jnp.zeros(config.critic.num_critics),
            noise_scale=Temperature.start(config.noise),
            entropy_per_dim=jnp.zeros(()),
        )

    def update(before: DacerState, batch, key, counters) -> tuple[DacerState, Metrics]:
        critic_key, policy_key, entropy_key = jax.random.split(key, 3)
        obs = batch.transition.obs
        state, metrics = update_critics(config, critics, before, batch.transition, critic_key)
        # The policy and the noise follow the critics, policy and noise from before this update.
        state, policy_metrics = delayed.if_due(
            counters.update, lambda state: update_policy(state, before, obs, policy_key), state
        )
        state = jax.lax.cond(
            counters.update % config.noise.estimate_every == 0,
            lambda: update_noise(config, state, before, obs, entropy_key),
            lambda: state,
        )
        return state, metrics | policy_metrics | {
            "noise_std": _noise_std(config, state),
            "policy_entropy_per_dim": state.entropy_per_dim,
        }

    def update_policy(state: DacerState, before: DacerState, obs, key):
        def loss(policy: DdpmPolicy):
            acting = before._replace(policy=before.policy._replace(module=policy))
            return -value(before, obs, noisy_action(config, acting, obs, key)).mean(), None

        policy, descent = state.policy.descend(policy_optimizer, loss)
        state = state._replace(policy=policy, critics=critics.follow(state.critics))
        return state, descent.metrics()

    def value(state: DacerState, obs, action):
        return critics.value(state.critics, obs, action)

    act = chain_modes(value, config.num_action_candidates) | {
        "explore": lambda state, obs, key, counters: noisy_action(config, state, obs, key),
        "observation_seeded": lambda state, obs, *_: state.policy.module.observation_seeded(obs),
    }
    return Agent(init, act, update, delayed=delayed)


def update_critics(
    config: DacerConfig, critics: Critics, state: DacerState, transition: Transition, key
) -> tuple[DacerState, Metrics]:
    """One step of the Gaussian critics and of the spread that scales their loss."""
    action_key, draw_key = jax.random.split(key)
    next_action = noisy_action(config, state, transition.next_obs, action_key)
    next_outputs = critic_outputs(state.critics.slow, transition.next_obs, next_action)
    reward = config.reward_scale * transition.reward
    discount = config.discount * (1.0 - transition.terminated)
    target = gaussian_target(GaussianReturn.of(next_outputs), reward, discount, draw_key)
    target = jax.lax.stop_gradient(target)

    def loss(online):
        returns = GaussianReturn.of(critic_outputs(online, transition.obs, transition.action))
        spread = jax.lax.stop_gradient(follow_spread(state.spread, returns.std))
        return gaussian_loss(returns, target, spread), (spread, returns)

    new, descent = state.critics.descend(critics.optimizer, loss)
    spread, returns = descent.aux
    metrics = {"q_mean": returns.mean.mean(), "q_std": returns.std.mean()}
    return state._replace(critics=new, spread=spread), metrics | descent.metrics("critic")


def update_noise(
    config: DacerConfig, state: DacerState, before: DacerState, obs, key
) -> DacerState:
    """The scale of the noise, towards the entropy of what is done in each state."""
    action_key, fit_key = jax.random.split(key)
    actions = noisy_action(config, before, obs, action_key, config.noise.num_actions)
    action_dim = actions.shape[-1]
    # A fixed key for the fit in the released code; a fresh one here.
    entropy = mean_mixture_entropy(actions, config.noise.num_components, fit_key)
    target_cost = -config.noise.target_entropy_per_dim * action_dim
    scale = state.noise_scale.step(
        config.noise, lambda log: log_temperature_loss(log, -entropy, target_cost)
    )
    return state._replace(noise_scale=scale, entropy_per_dim=entropy / action_dim)


def noisy_action(
    config: DacerConfig, state: DacerState, obs, key, num: int | None = None
) -> Float[Array, "*draws act"]:
    """What is done in training: the chain's action plus noise; or `num` for each observation."""
    chain_key, noise_key = jax.random.split(key)
    action = state.policy.module.sample(obs, chain_key, num)
    noise = _noise_std(config, state) * jax.random.normal(noise_key, action.shape)
    return jnp.clip(action + noise, -1.0, 1.0)


def _noise_std(config: DacerConfig, state: DacerState) -> Array:
    return config.noise.std_per_scale * state.noise_scale.value


def initial_policy(config: DdpmPolicyConfig, spec: EnvSpec, key) -> DdpmPolicy:
    """The policy at the start of training."""
    frequencies = sinusoidal_frequencies(8, 8)
    features = partial(SinusoidalFeatures, frequencies, (32, 16), start=_START, scale=0.25)
    return DdpmPolicy(
        Denoiser(spec, config.hidden, features, key, _START), config.num_denoising_steps
    )


def _network_evaluations(settings: DacerConfig) -> tuple[int, int]:
    steps = settings.policy.num_denoising_steps
    return steps, steps * (2 + settings.noise.num_actions)  # target, policy, entropy


DACER = Algorithm(
    name="dacer",
    paper="Wang et al., NeurIPS 2024",
    url="https://arxiv.org/abs/2405.15177",
    year=2024,
    policy="denoising chain with added noise",
    critic="Gaussian x2, target networks",
    make=dacer,
    config=DacerConfig,
    network_evaluations=_network_evaluations,
    modes=("observation_seeded", "stochastic", "deterministic", "best_of_n"),
)
