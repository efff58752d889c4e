"""CrossQ (Bhatt et al., ICLR 2024): SAC without target networks, with batch renormalisation.

Policy and critics are normalised networks; current and next pairs share one pass of the critics.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dime.algorithms.algorithm import Algorithm, AlgorithmConfig
from dime.critics.critics import CriticState
from dime.critics.heads import ScalarHead, SoftBackup, smallest
from dime.critics.joint import CrossQCriticConfig
from dime.errors import require_at_least
from dime.networks.batch_renorm import WARMUP_CALLS, BatchRenormMlp, Stats
from dime.optimizers import OptimizerConfig, TrainState
from dime.policies.tanh_gaussian import TanhGaussian
from dime.types import Agent, EnvSpec, Metrics
from dime.updates.action_modes import action_modes
from dime.updates.policy_losses import max_entropy_policy_loss
from dime.updates.temperature import EntropyTemperatureConfig, Temperature, temperature_loss


@dataclass(frozen=True)
class CrossQPolicyConfig(OptimizerConfig):
    """The batch-normalised network that outputs mean and standard deviation."""

    hidden_dim: int = 256
    """Width of the hidden layers (CrossQ; DIME table 3)."""
    num_hidden_layers: int = 3
    """Number of hidden layers (DIME table 3; CrossQ on Gym: 2)."""
    learning_rate: float = 7e-4
    """Adam's learning rate (DIME table 3; CrossQ on Gym: 1e-3)."""
    adam_b1: float = 0.5
    """Adam's decay rate of the first moment, in [0, 1) (released code)."""
    renorm_warmup_updates: int = WARMUP_CALLS
    """Policy updates before batch renormalisation replaces plain batch norm (released code)."""

    def __post_init__(self):
        super().__post_init__()
        require_at_least(self, 1, "hidden_dim", "num_hidden_layers")
        require_at_least(self, 0, "renorm_warmup_updates")

    def make(self, spec: EnvSpec, key) -> BatchRenormMlp:
        """The network at the start of training."""
        hidden = [self.hidden_dim] * self.num_hidden_layers
        sizes = (spec.obs_dim, *hidden, 2 * spec.action_dim)
        return BatchRenormMlp(sizes, self.renorm_warmup_updates, key)


@dataclass(frozen=True)
class CrossQConfig(AlgorithmConfig):
    """Everything that CrossQ's mathematics depends on; the defaults are DIME's table 3."""

    policy: CrossQPolicyConfig = field(default_factory=CrossQPolicyConfig)
    critic: CrossQCriticConfig = field(
        default_factory=lambda: CrossQCriticConfig(learning_rate=7e-4)
    )
    temperature: EntropyTemperatureConfig = field(default_factory=EntropyTemperatureConfig)
    policy_delay: int = 3
    """Critic updates per update of the policy and the temperature."""

    def __post_init__(self):
        super().__post_init__()
        require_at_least(self, 1, "policy_delay")


_POLICY_METRICS = ("policy_loss", "policy_gradient_norm", "entropy_per_dim")


class CrossQState(NamedTuple):
    """What training changes."""

    policy: TrainState
    policy_stats: Stats
    critics: CriticState
    temperature: Temperature
    policy_metrics: Metrics  # of the last policy update, zeros before the first


def crossq(config: CrossQConfig, spec: EnvSpec) -> Agent:
    """The algorithm for an environment of the given sizes."""
    critics = config.critic.make(spec, ScalarHead(combine=smallest))
    policy_optimizer = config.policy.make_optimizer()
    target_log_prob = -config.temperature.target_entropy_per_dim * spec.action_dim

    def init(key) -> CrossQState:
        policy_key, critic_key = jax.random.split(key)
        policy = config.policy.make(spec, policy_key)
        return CrossQState(
            policy=TrainState.start(policy, policy_optimizer),
            policy_stats=policy.initial_stats(),
            critics=critics.start(critic_key),
            temperature=Temperature.start(config.temperature),
            policy_metrics={name: jnp.zeros(()) for name in _POLICY_METRICS},
        )

    def update(state: CrossQState, batch, key, counters) -> tuple[CrossQState, Metrics]:
        critic_key, policy_key = jax.random.split(key)
        state, metrics = update_critics(state, batch.transition, critic_key)
        state = jax.lax.cond(
            (counters.update + 1) % config.policy_delay == 0,
            lambda state: update_policy(state, batch.transition.obs, policy_key),
            lambda state: state,
            state,
        )
        return state, metrics | state.policy_metrics | {"temperature": state.temperature.value}

    def update_critics(state: CrossQState, transition, key) -> tuple[CrossQState, Metrics]:
        next_sample = _distribution(state, transition.next_obs).sample(key)  # running statistics
        entropy_cost = state.temperature.value * next_sample.log_prob
        backup = SoftBackup.of(transition, config.discount, entropy_cost)
        new, metrics = critics.step(state.critics, transition, next_sample.action, backup)
        return state._replace(critics=new), metrics

    def update_policy(state: CrossQState, obs, key) -> CrossQState:
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
        entropy_per_dim = -log_prob.mean() / spec.action_dim
        measured = (descent.loss, descent.gradient_norm, entropy_per_dim)
        return state._replace(
            policy=policy,
            policy_stats=stats,
            temperature=temperature,
            policy_metrics=dict(zip(_POLICY_METRICS, measured, strict=True)),
        )

    def value(state: CrossQState, obs, action):
        return critics.value(state.critics, obs, action)

    modes = action_modes(
        lambda state, obs, key: _distribution(state, obs).sample(key).action,
        lambda state, obs: _distribution(state, obs).mode(),
        value,
        config.num_action_candidates,
    )
    return Agent(init=init, act={"explore": modes["stochastic"], **modes}, update=update)


def _distribution(state: CrossQState, obs) -> TanhGaussian:
    """The policy's distribution in evaluation mode."""
    return TanhGaussian.from_output(state.policy.module(obs, state.policy_stats))


CROSSQ = Algorithm(
    name="crossq",
    paper="Bhatt et al., ICLR 2024",
    year=2024,
    policy="tanh-Gaussian, batch renormalisation",
    critic="scalar x2, joint pass, batch renormalisation",
    make=crossq,
    config=CrossQConfig,
    network_evaluations=lambda settings: (1, 2),
)
