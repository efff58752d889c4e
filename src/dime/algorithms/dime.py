"""DIME: diffusion-based maximum-entropy reinforcement learning (Celik et al., ICML 2025).

SAC with a denoising chain as its policy: the chain's bound on the entropy (eq. 15) stands where
SAC has the entropy, in the critic's target (eq. 21) and in the policy's loss (eq. 27). The critic
is CrossQ's with a categorical head; the mean of two is used instead of the minimum.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array

from dime.algorithms.algorithm import Algorithm, Preset
from dime.critics.heads import SoftBackup
from dime.critics.joint import CriticConfig, JointCritics
from dime.errors import require, require_at_least, require_unit_interval
from dime.policies.diffusion import BridgePolicyConfig, DiffusionPolicy, DiffusionPolicyConfig
from dime.policies.tanh_gaussian import GaussianPolicy, GaussianPolicyConfig
from dime.types import Agent, EnvSpec, Metrics
from dime.updates.gradient_step import descend
from dime.updates.modes import best_of_n
from dime.updates.policy_losses import (
    combined_value,
    joint_critic_step,
    log_variance_policy_loss,
    max_entropy_policy_loss,
)
from dime.updates.temperature import Temperature, TemperatureConfig, temperature_loss

Objective: TypeAlias = Literal["reverse-kl", "log-variance"]


@dataclass(frozen=True)
class _SharedConfig:
    """What does not depend on the policy; the defaults are the paper's."""

    critic: CriticConfig = field(default_factory=CriticConfig)
    discount: float = 0.99
    """Weight of the next step's value, in [0, 1) (paper, table 2)."""
    policy_delay: int = 3
    """Critic updates per update of policy and temperature, counted over the run (released code)."""
    num_action_candidates: int = 16
    """Candidates of the evaluation mode best_of_n (our choice; the paper has no such mode)."""

    def __post_init__(self):
        require_at_least(self, 1, "policy_delay", "num_action_candidates")
        require_unit_interval(self, "discount")


@dataclass(frozen=True)
class DimeConfig(_SharedConfig):
    """Everything that DIME's mathematics depends on; the defaults are the paper's."""

    policy: DiffusionPolicyConfig = field(default_factory=DiffusionPolicyConfig)
    temperature: TemperatureConfig = field(default_factory=TemperatureConfig)
    objective: Objective = "reverse-kl"
    """What makes the policy's chain end in exp(Q / temperature): `reverse-kl` through the chain
    (paper, eq. 27), or `log-variance` over several chains of each state (paper, section 6)."""
    num_chains: int = 4
    """Chains of each state for the log-variance objective, at least 2 (our choice)."""

    def __post_init__(self):
        super().__post_init__()
        require_at_least(self, 2, "num_chains")
        require(
            self.objective in get_args(Objective),
            f"objective is {self.objective!r}; it must be one of: "
            f"{', '.join(get_args(Objective))}.",
        )


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

    policy: GaussianPolicyConfig = field(default_factory=GaussianPolicyConfig)
    temperature: TemperatureConfig = field(
        default_factory=lambda: TemperatureConfig(target_running_cost_per_dim=1.0)
    )


_POLICY_METRICS = ("policy_loss", "policy_gradient_norm", "running_cost", "entropy_bound_per_dim")


class DimeState(NamedTuple):
    """What training changes."""

    policy: DiffusionPolicy | GaussianPolicy
    policy_optimizer: Any
    critics: JointCritics
    temperature: Temperature
    # Of the last policy update (zeros before the first): both branches of a `lax.cond` must give
    # the same leaves, and every record is to have them.
    policy_metrics: Metrics


def dime(config: DimeConfig | DimeGaussianConfig, spec: EnvSpec) -> Agent:
    """The algorithm for an environment of the given sizes."""
    head = config.critic.make_head()
    target_running_cost = config.temperature.target_running_cost_per_dim * spec.action_dim
    policy_optimizer = config.policy.make_optimizer()
    critic_optimizer = config.critic.make_optimizer()

    def init(key) -> DimeState:
        policy_key, critic_key = jax.random.split(key)
        policy: Any = config.policy.make(spec, policy_key)
        return DimeState(
            policy=policy,
            policy_optimizer=policy_optimizer.init(policy),
            critics=JointCritics.start(config.critic, head.output_dim, spec, critic_key),
            temperature=Temperature.start(config.temperature),
            policy_metrics={name: jnp.zeros(()) for name in _POLICY_METRICS},
        )

    def update(state: DimeState, batch, key, counters) -> tuple[DimeState, Metrics]:
        critic_key, policy_key = jax.random.split(key)
        state, critic_metrics = update_critics(state, batch.transition, critic_key)

        def update_policy_and_temperature(state: DimeState) -> DimeState:
            state, running_cost = update_policy(state, batch.transition.obs, policy_key)
            temperature = state.temperature.step(
                config.temperature,
                lambda log: temperature_loss(log, running_cost, target_running_cost),
            )
            return state._replace(temperature=temperature)

        due = (counters.update + 1) % config.policy_delay == 0
        state = jax.lax.cond(due, update_policy_and_temperature, lambda state: state, state)
        return state, critic_metrics | state.policy_metrics | _present_metrics(state)

    def update_critics(state: DimeState, transition, key) -> tuple[DimeState, Metrics]:
        next_sample = state.policy.sample(transition.next_obs, key)
        entropy_cost = state.temperature.value * next_sample.log_prob
        backup = SoftBackup.of(transition, config.discount, entropy_cost)
        critics, metrics = joint_critic_step(
            state.critics, transition, next_sample.action, backup, head, critic_optimizer
        )
        return state._replace(critics=critics), metrics

    def update_policy(state: DimeState, obs, key) -> tuple[DimeState, Array]:
        def loss(policy: DiffusionPolicy | GaussianPolicy):
            drawn_obs, sample, loss_of = _drawn(config, policy, obs, key)
            q = value(state, drawn_obs, sample.action)
            return loss_of(sample.log_prob, q, state.temperature.value), sample

        policy, optimizer, descent = descend(
            policy_optimizer, loss, state.policy_optimizer, state.policy
        )
        sample = descent.told
        metrics = {
            "policy_loss": descent.loss,
            "policy_gradient_norm": descent.gradient_norm,
            "running_cost": sample.running_cost.mean(),
            "entropy_bound_per_dim": -sample.log_prob.mean() / spec.action_dim,
        }
        state = state._replace(policy=policy, policy_optimizer=optimizer, policy_metrics=metrics)
        return state, sample.running_cost

    def value(state: DimeState, obs, action):
        return combined_value(state.critics.online, state.critics.stats, obs, action, head)

    act = {
        "explore": _stochastic,
        "stochastic": _stochastic,
        "deterministic": lambda state, obs, key, counters: state.policy.deterministic(obs),
        "best_of_n": best_of_n(_sample, value, config.num_action_candidates),
    }
    return Agent(init=init, act=act, update=update)


def _drawn(config: DimeConfig | DimeGaussianConfig, policy: Any, obs, key):
    """The observations and samples of a policy update, and what makes the loss of them."""
    if isinstance(config, DimeConfig) and config.objective == "log-variance":
        repeated = jnp.broadcast_to(obs, (config.num_chains, *obs.shape))
        return repeated, policy.sample_detached(repeated, key), log_variance_policy_loss
    return obs, policy.sample(obs, key), max_entropy_policy_loss


def _sample(state: DimeState, obs, key):
    return state.policy.sample(obs, key).action


def _stochastic(state: DimeState, obs, key, counters):
    return _sample(state, obs, key)


def _present_metrics(state: DimeState) -> Metrics:
    return state.policy.metrics() | {"temperature": state.temperature.value}


_LAPTOP = {
    "policy": {
        "num_denoising_steps": 8,
        "hidden_dim": 128,
        "num_hidden_layers": 2,
        "learning_rate": 7e-4,
    },
    "critic": {"hidden_dim": 256, "learning_rate": 7e-4},
    "temperature": {"initial": 0.1},
    "policy_delay": 2,
}
_LAPTOP_GAUSSIAN = _LAPTOP | {
    "policy": {"hidden_dim": 128, "num_hidden_layers": 2, "learning_rate": 1e-3},
}
# The multi-goal plane shows several modes only while the entropy matters: as in soft Q-learning
# the temperature is fixed; a shorter horizon keeps staying alive from being worth its entropy.
_MULTI_GOAL = Preset({"temperature": {"initial": 2.0, "learn": False}, "discount": 0.9})
_CRITIC = "categorical x2, joint pass, batch renormalisation"
_MODES = ("stochastic", "deterministic", "best_of_n")


def _of_one_chain(settings: DimeConfig) -> tuple[int, int]:
    steps = settings.policy.num_denoising_steps
    return steps, 2 * steps  # the next action's chain, and the policy's


def _of_two_chains(settings: DimeGbConfig) -> tuple[int, int]:
    steps = settings.policy.num_denoising_steps
    return 2 * steps, 4 * steps


DIME = Algorithm(
    name="dime",
    paper="Celik et al., ICML 2025",
    year=2025,
    policy="denoising chain with a bound on its entropy",
    critic=_CRITIC,
    make=dime,
    config=DimeConfig,
    network_evaluations=lambda settings: (
        settings.policy.num_denoising_steps,
        2 * settings.policy.num_denoising_steps,
    ),
    modes=_MODES,
    presets={"laptop": Preset(_LAPTOP, by_env={"dime/MultiGoal-v0": _MULTI_GOAL})},
)
DIME_GAUSSIAN = Algorithm(
    name="dime-gaussian",
    paper="Celik et al., ICML 2025, section 5.1",
    year=2025,
    policy="tanh-Gaussian",
    critic=_CRITIC,
    make=dime,
    config=DimeGaussianConfig,
    network_evaluations=lambda settings: (1, 2),
    modes=_MODES,
    presets={"laptop": Preset(_LAPTOP_GAUSSIAN)},
)
DIME_GB = Algorithm(
    name="dime-gb",
    paper="Celik et al., ICML 2025, appendix F",
    year=2025,
    policy="general bridge: denoising and noising chain both learnt",
    critic=_CRITIC,
    make=dime,
    config=DimeGbConfig,
    network_evaluations=lambda settings: (
        2 * settings.policy.num_denoising_steps,
        4 * settings.policy.num_denoising_steps,
    ),
    modes=_MODES,
    presets={"laptop": Preset(_LAPTOP)},
)
