"""CrossQ (Bhatt et al., ICLR 2024): SAC without target networks, with batch renormalisation.

Policy and critics are normalised networks; current and next pairs share one pass of the critics.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax

from dime.algorithms.algorithm import Algorithm, AlgorithmConfig
from dime.critics.critics import CriticState, CrossQCriticConfig
from dime.critics.heads import ScalarHead, SoftBackup, smallest
from dime.errors import Count, Fraction, Positive, Whole
from dime.networks.batch_renorm import WARMUP_CALLS, BatchRenormMlp, Stats
from dime.optimizers import NetworkConfig, TrainState
from dime.policies.tanh_gaussian import TanhGaussian
from dime.types import Agent, Delayed, EnvSpec, Metrics
from dime.updates.action_modes import action_modes
from dime.updates.max_entropy import (
    EntropyTemperatureConfig,
    Temperature,
    max_entropy_policy_loss,
    temperature_loss,
)


@dataclass(frozen=True)
class CrossQPolicyConfig(NetworkConfig):
    """The batch-normalised network that outputs mean and standard deviation."""

    hidden_dim: Count = 256
    """Width of the hidden layers (CrossQ; DIME table 3)."""
    num_hidden_layers: Count = 3
    """Number of hidden layers (DIME table 3; CrossQ on Gym: 2)."""
    learning_rate: Positive = 7e-4
    """Adam's learning rate (DIME table 3; CrossQ on Gym: 1e-3)."""
    adam_b1: Fraction = 0.5
    """Adam's decay rate of the first moment, in [0, 1) (released code)."""
    renorm_warmup_updates: Whole = WARMUP_CALLS
    """Policy updates before batch renormalisation replaces plain batch norm (released code)."""

    def make(self, spec: EnvSpec, key) -> BatchRenormMlp:
        """The network at the start of training."""
        sizes = (spec.obs_dim, *self.hidden, 2 * spec.action_dim)
        return BatchRenormMlp(sizes, self.renorm_warmup_updates, key)


@dataclass(frozen=True)
class CrossQConfig(AlgorithmConfig):
    """Everything that CrossQ's mathematics depends on; the defaults are DIME's table 3."""

    policy: CrossQPolicyConfig = field(default_factory=CrossQPolicyConfig)
    critic: CrossQCriticConfig = field(
        default_factory=lambda: CrossQCriticConfig(learning_rate=7e-4)
    )
    temperature: EntropyTemperatureConfig = field(default_factory=EntropyTemperatureConfig)
    policy_delay: Count = 3
    """Critic updates per update of the policy and the temperature."""


_POLICY_METRICS = ("policy_loss", "policy_gradient_norm", "entropy_per_dim")


class CrossQState(NamedTuple):
    """What training changes."""

    policy: TrainState
    policy_stats: Stats
    critics: CriticState
    temperature: Temperature


def crossq(config: CrossQConfig, spec: EnvSpec) -> Agent:
    """The algorithm for an environment of the given sizes."""
    critics = config.critic.make(spec, ScalarHead(combine=smallest))
    policy_optimizer = config.policy.make_optimizer()
    target_log_prob = -config.temperature.target_entropy_per_dim * spec.action_dim
    delayed = Delayed(_POLICY_METRICS, lambda update: (update + 1) % config.policy_delay == 0)

    def init(key) -> CrossQState:
        policy_key, critic_key = jax.random.split(key)
        policy = config.policy.make(spec, policy_key)
        return CrossQState(
            policy=TrainState.start(policy, policy_optimizer),
            policy_stats=policy.initial_stats(),
            critics=critics.start(critic_key),
            temperature=Temperature.start(config.temperature),
        )

    def update(state: CrossQState, batch, key, counters) -> tuple[CrossQState, Metrics]:
        critic_key, policy_key = jax.random.split(key)
        state, metrics = update_critics(state, batch.transition, critic_key)
        state, policy_metrics = delayed.if_due(
            counters.update,
            lambda state: update_policy(state, batch.transition.obs, policy_key),
            state,
        )
        return state, metrics | policy_metrics | {"temperature": state.temperature.value}

    def update_critics(state: CrossQState, transition, key) -> tuple[CrossQState, Metrics]:
        next_sample = _distribution(state, transition.next_obs).sample(key)  # running statistics
        entropy_cost = state.temperature.value * next_sample.log_prob
        backup = SoftBackup.of(transition, config.discount, entropy_cost)
        new, metrics = critics.step(state.critics, transition, next_sample.action, backup)
        return state._replace(critics=new), metrics

    def update_policy(state: CrossQState, obs, key) -> tuple[CrossQState, Metrics]:
        def loss(policy: BatchRenormMlp) -> Any:
            output, stats = policy.train(obs, state.policy_stats)
            sample = TanhGaussian.from_output(output).sample(key)
            q = value(state, obs, sample.action)
            loss = max_entropy_policy_loss(sample.log_prob, q, state.temperature.value)
            return loss, (sample.log_prob, stats)

        policy, descent = state.policy.descend(policy_optimizer, loss)
        log_prob, stats = descent.aux
        temperature = state.temperature.step(
            config.temperature, lambda log: temperature_loss(log, log_prob, target_log_prob)
        )
        state = state._replace(policy=policy, policy_stats=stats, temperature=temperature)
        return state, descent.metrics() | {"entropy_per_dim": -log_prob.mean() / spec.action_dim}

    def value(state: CrossQState, obs, action):
        return critics.value(state.critics, obs, action)

    modes = action_modes(
        lambda state, obs, key: _distribution(state, obs).sample(key).action,
        lambda state, obs: _distribution(state, obs).mode(),
        value,
        config.num_action_candidates,
    )
    return Agent(init, {"explore": modes["stochastic"], **modes}, update, delayed=delayed)


def _distribution(state: CrossQState, obs) -> TanhGaussian:
    """The policy's distribution in evaluation mode."""
    return TanhGaussian.from_output(state.policy.module(obs, state.policy_stats))


CROSSQ = Algorithm(
    name="crossq",
    paper="Bhatt et al., ICLR 2024",
    url="https://arxiv.org/abs/1902.05605",
    year=2024,
    policy="tanh-Gaussian, batch renormalisation",
    critic="scalar x2, joint pass, batch renormalisation",
    make=crossq,
    config=CrossQConfig,
    network_evaluations=lambda settings: (1, 2),
)
