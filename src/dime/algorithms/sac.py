"""SAC: soft actor-critic (Haarnoja et al. 2018), as today's reference codes compute it.

A tanh-Gaussian policy, the minimum of two critics with target parameters, a learnt temperature.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import jax

from dime.algorithms.algorithm import Algorithm, AlgorithmConfig
from dime.critics.critics import CriticState, TargetCriticConfig
from dime.critics.heads import ScalarHead, SoftBackup, smallest
from dime.optimizers import TrainState
from dime.policies.tanh_gaussian import GaussianPolicyConfig
from dime.types import Agent, EnvSpec, Metrics
from dime.updates.action_modes import policy_modes
from dime.updates.max_entropy import (
    EntropyTemperatureConfig,
    Temperature,
    log_temperature_loss,
    reverse_kl,
)


@dataclass(frozen=True)
class SacConfig(AlgorithmConfig):
    """Everything that SAC's mathematics depends on."""

    policy: GaussianPolicyConfig = field(default_factory=GaussianPolicyConfig)
    critic: TargetCriticConfig = field(default_factory=TargetCriticConfig)
    temperature: EntropyTemperatureConfig = field(default_factory=EntropyTemperatureConfig)


class SacState(NamedTuple):
    """What training changes."""

    policy: TrainState
    critics: CriticState
    temperature: Temperature


def sac(config: SacConfig, spec: EnvSpec) -> Agent:
    """The algorithm for an environment of the given sizes."""
    critics = config.critic.make(spec, ScalarHead(combine=smallest), jax.nn.relu)
    policy_optimizer = config.policy.make_optimizer()
    target_log_prob = -config.temperature.target_entropy_per_dim * spec.action_dim

    def init(key) -> SacState:
        policy_key, critic_key = jax.random.split(key)
        policy = config.policy.make(spec, policy_key, jax.nn.relu)
        return SacState(
            policy=TrainState.start(policy, policy_optimizer),
            critics=critics.start(critic_key),
            temperature=Temperature.start(config.temperature),
        )

    def update(state: SacState, batch, key, counters) -> tuple[SacState, Metrics]:
        critic_key, policy_key = jax.random.split(key)
        state, critic_metrics = update_critics(state, batch.transition, critic_key)
        state, policy_metrics = update_policy(state, batch.transition.obs, policy_key)
        state = state._replace(critics=critics.follow(state.critics))
        return state, critic_metrics | policy_metrics

    def update_critics(state: SacState, transition, key) -> tuple[SacState, Metrics]:
        next_sample = state.policy.module.sample(transition.next_obs, key)
        entropy_cost = state.temperature.value * next_sample.log_prob
        backup = SoftBackup.of(transition, config.discount, entropy_cost)
        new, metrics = critics.step(state.critics, transition, next_sample.action, backup)
        return state._replace(critics=new), metrics

    def update_policy(state: SacState, obs, key) -> tuple[SacState, Metrics]:
        temperature = state.temperature.value

        def loss(policy):
            return reverse_kl(policy, obs, key, partial(value, state), temperature)

        policy, descent = state.policy.descend(policy_optimizer, loss)
        log_prob = descent.aux.log_prob
        new_temperature = state.temperature.step(
            config.temperature, lambda log: log_temperature_loss(log, log_prob, target_log_prob)
        )
        return state._replace(policy=policy, temperature=new_temperature), descent.metrics() | {
            "entropy_per_dim": -log_prob.mean() / spec.action_dim,
            "temperature": temperature,
        }

    def value(state: SacState, obs, action):
        return critics.value(state.critics, obs, action)

    modes = policy_modes(value, config.num_action_candidates)
    return Agent(init=init, act={"explore": modes["stochastic"], **modes}, update=update)


SAC = Algorithm(
    name="sac",
    paper="Haarnoja et al., ICML 2018",
    url="https://arxiv.org/abs/1801.01290",
    year=2018,
    policy="tanh-Gaussian",
    critic="scalar x2, target networks",
    make=sac,
    config=SacConfig,
    network_evaluations=lambda settings: (2, 2),
)
