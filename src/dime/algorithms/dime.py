"""DIME: diffusion-based maximum-entropy reinforcement learning (Celik et al., ICML 2025).

SAC with a denoising chain as its policy: the chain's bound on the entropy (eq. 15) replaces the
entropy, in the critic's target (eq. 21) and in the policy's loss (eq. 27). The critic
is CrossQ's with a categorical head; the mean of two is used instead of the minimum.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Literal, NamedTuple

import jax

from dime.algorithms.algorithm import Algorithm, AlgorithmConfig
from dime.critics.critics import CriticConfig, CriticState
from dime.critics.heads import SoftBackup
from dime.errors import Count, at_least
from dime.optimizers import TrainState
from dime.policies.diffusion import BridgePolicyConfig, DiffusionPolicyConfig
from dime.policies.tanh_gaussian import GaussianPolicyConfig
from dime.types import Agent, Delayed, EnvSpec, Metrics
from dime.updates.action_modes import policy_modes
from dime.updates.max_entropy import (
    Objective,
    Temperature,
    TemperatureConfig,
    log_variance_over,
    reverse_kl,
    temperature_loss,
)


@dataclass(frozen=True)
class _SharedConfig(AlgorithmConfig):
    """What does not depend on the policy; the defaults are the paper's."""

    critic: CriticConfig = field(default_factory=CriticConfig)
    policy_delay: Count = 3
    """Critic updates per update of the policy and the temperature (released code)."""

    def make_objective(self) -> Objective:
        """What makes the policy end in exp(Q / temperature)."""
        return reverse_kl


@dataclass(frozen=True)
class DimeConfig(_SharedConfig):
    """Everything that DIME's mathematics depends on; the defaults are the paper's."""

    policy: DiffusionPolicyConfig = field(default_factory=DiffusionPolicyConfig)
    temperature: TemperatureConfig = field(default_factory=TemperatureConfig)
    objective: Literal["reverse-kl", "log-variance"] = "reverse-kl"
    """Loss of the policy: `reverse-kl` through the chain (paper, eq. 27), or `log-variance` over
    several chains per state (paper, section 6)."""
    num_chains: Annotated[int, at_least(2)] = 4
    """Chains per state for the log-variance objective, at least 2 (our choice)."""

    def make_objective(self) -> Objective:
        """What makes the policy's chain end in exp(Q / temperature)."""
        return reverse_kl if self.objective == "reverse-kl" else log_variance_over(self.num_chains)


@dataclass(frozen=True)
class DimeGbConfig(DimeConfig):
    """DIME with general bridges (appendix F, figure 6): a second network in the noising kernel.

    Both are trained on the same loss. With the second one at exactly 0 this is DIME.
    """

    policy: BridgePolicyConfig = field(default_factory=BridgePolicyConfig)


@dataclass(frozen=True)
class DimeGaussianConfig(_SharedConfig):
    """DIME with the policy exchanged for a tanh-Gaussian, nothing else (section 5.1, figure 2c-d).

    Its log density is exact and has no prior's share: the default target, 1 nat per dimension, is
    SAC's target entropy (our choice, like the network).
    """

    policy: GaussianPolicyConfig = field(
        default_factory=lambda: GaussianPolicyConfig(
            num_hidden_layers=3, adam_b1=0.5, max_gradient=1.0
        )
    )
    temperature: TemperatureConfig = field(
        default_factory=lambda: TemperatureConfig(target_running_cost_per_dim=1.0)
    )


_POLICY_METRICS = ("policy_loss", "policy_gradient_norm", "running_cost", "entropy_bound_per_dim")


class DimeState(NamedTuple):
    """What training changes."""

    policy: TrainState
    critics: CriticState
    temperature: Temperature


def dime(config: DimeConfig | DimeGaussianConfig, spec: EnvSpec) -> Agent:
    """The algorithm for an environment of the given sizes."""
    critics = config.critic.make(spec, config.critic.make_head())
    objective = config.make_objective()
    policy_optimizer = config.policy.make_optimizer()
    target_running_cost = config.temperature.target_running_cost_per_dim * spec.action_dim
    delayed = Delayed(_POLICY_METRICS, lambda update: (update + 1) % config.policy_delay == 0)

    def init(key) -> DimeState:
        policy_key, critic_key = jax.random.split(key)
        return DimeState(
            policy=TrainState.start(config.policy.make(spec, policy_key), policy_optimizer),
            critics=critics.start(critic_key),
            temperature=Temperature.start(config.temperature),
        )

    def update(state: DimeState, batch, key, counters) -> tuple[DimeState, Metrics]:
        critic_key, policy_key = jax.random.split(key)
        state, critic_metrics = update_critics(state, batch.transition, critic_key)
        state, policy_metrics = delayed.if_due(
            counters.update,
            lambda state: update_policy(state, batch.transition.obs, policy_key),
            state,
        )
        present = state.policy.module.metrics() | {"temperature": state.temperature.value}
        return state, critic_metrics | policy_metrics | present

    def update_critics(state: DimeState, transition, key) -> tuple[DimeState, Metrics]:
        next_sample = state.policy.module.sample(transition.next_obs, key)
        entropy_cost = state.temperature.value * next_sample.log_prob
        backup = SoftBackup.of(transition, config.discount, entropy_cost)
        new, metrics = critics.step(state.critics, transition, next_sample.action, backup)
        return state._replace(critics=new), metrics

    def update_policy(state: DimeState, obs, key) -> tuple[DimeState, Metrics]:
        def loss(policy):
            return objective(policy, obs, key, partial(value, state), state.temperature.value)

        policy, descent = state.policy.descend(policy_optimizer, loss)
        sample = descent.aux
        temperature = state.temperature.step(
            config.temperature,
            lambda log: temperature_loss(log, sample.running_cost, target_running_cost),
        )
        return state._replace(policy=policy, temperature=temperature), descent.metrics() | {
            "running_cost": sample.running_cost.mean(),
            "entropy_bound_per_dim": -sample.log_prob.mean() / spec.action_dim,
        }

    def value(state: DimeState, obs, action):
        return critics.value(state.critics, obs, action)

    modes = policy_modes(value, config.num_action_candidates)
    return Agent(init, {"explore": modes["stochastic"], **modes}, update, delayed=delayed)


def _evaluations_of(num_networks: int):
    """The next action's chain, and the policy's; of a general bridge both networks."""

    def evaluations(settings: DimeConfig) -> tuple[int, int]:
        steps = num_networks * settings.policy.num_denoising_steps
        return (steps, 2 * steps) if settings.objective == "reverse-kl" else (0, 0)

    return evaluations


DIME = Algorithm(
    name="dime",
    paper="Celik et al., ICML 2025",
    url="https://proceedings.mlr.press/v267/celik25a.html",
    year=2025,
    policy="denoising chain with a bound on its entropy",
    critic="categorical x2, joint pass, batch renormalisation",
    make=dime,
    config=DimeConfig,
    network_evaluations=_evaluations_of(1),
    modes=("stochastic", "deterministic", "best_of_n"),
)
DIME_GAUSSIAN = replace(
    DIME,
    name="dime-gaussian",
    paper="Celik et al., ICML 2025, section 5.1",
    policy="tanh-Gaussian",
    config=DimeGaussianConfig,
    network_evaluations=lambda settings: (1, 2),
)
DIME_GB = replace(
    DIME,
    name="dime-gb",
    paper="Celik et al., ICML 2025, appendix F",
    policy="general bridge: denoising and noising chain both learnt",
    config=DimeGbConfig,
    network_evaluations=_evaluations_of(2),
)
