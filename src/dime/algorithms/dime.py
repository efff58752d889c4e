"""DIME: diffusion-based maximum-entropy reinforcement learning (Celik et al., ICML 2025).

SAC with a denoising chain as its policy: the chain's bound on the entropy (eq. 15) stands where
SAC has the entropy, in the critic's target (eq. 21) and in the policy's loss (eq. 27). The critic
is CrossQ's with a categorical head; the mean of two is used instead of the minimum.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dime.critics.ensemble import Critic, CriticConfig, CriticStats, init_critics
from dime.critics.heads import SoftBackup
from dime.errors import require_at_least, require_unit_interval
from dime.policies.diffusion import DiffusionPolicy, DiffusionPolicyConfig
from dime.types import Agent, EnvSpec, Metrics
from dime.updates.gradient_step import gradient_step
from dime.updates.max_entropy import joint_critic_loss, max_entropy_policy_loss, mean_value
from dime.updates.temperature import TemperatureConfig, temperature_loss


@dataclass(frozen=True)
class DimeConfig:
    """Everything that DIME's mathematics depends on; the defaults are the paper's."""

    policy: DiffusionPolicyConfig = field(default_factory=DiffusionPolicyConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    temperature: TemperatureConfig = field(default_factory=TemperatureConfig)
    discount: float = 0.99
    """Weight of the next step's value, in [0, 1) (paper, table 2)."""
    policy_delay: int = 3
    """Critic updates per update of policy and temperature, counted over the run (released code)."""
    num_action_candidates: int = 16
    """Candidates of the evaluation mode best_of_n (our choice; the paper has no such mode)."""

    def __post_init__(self):
        require_at_least(self, 1, "policy_delay", "num_action_candidates")
        require_unit_interval(self, "discount")


_POLICY_METRICS = ("policy_loss", "policy_gradient_norm", "running_cost", "entropy_bound_per_dim")


class DimeState(NamedTuple):
    """What training changes."""

    policy: DiffusionPolicy
    policy_optimizer: Any
    critics: Critic
    critic_stats: CriticStats
    critic_optimizer: Any
    log_temperature: Float[Array, ""]
    temperature_optimizer: Any
    # Of the last policy update (zeros before the first): both branches of a `lax.cond` must give
    # the same leaves, and every record is to have them.
    policy_metrics: Metrics


def dime(config: DimeConfig, spec: EnvSpec) -> Agent:
    """The algorithm for an environment of the given sizes."""
    head = config.critic.make_head()
    target_running_cost = config.temperature.target_running_cost_per_dim * spec.action_dim
    policy_optimizer = config.policy.make_optimizer()
    critic_optimizer = config.critic.make_optimizer()
    temperature_optimizer = config.temperature.make_optimizer()

    def init(key) -> DimeState:
        policy_key, critic_key = jax.random.split(key)
        policy = DiffusionPolicy(config.policy, spec, policy_key)
        critics, critic_stats = init_critics(config.critic, spec, critic_key)
        log_temperature = jnp.log(jnp.float32(config.temperature.initial))
        return DimeState(
            policy=policy,
            policy_optimizer=policy_optimizer.init(policy),  # pyright: ignore[reportArgumentType]
            critics=critics,
            critic_stats=critic_stats,
            critic_optimizer=critic_optimizer.init(critics),  # pyright: ignore[reportArgumentType]
            log_temperature=log_temperature,
            temperature_optimizer=temperature_optimizer.init(log_temperature),
            policy_metrics={name: jnp.zeros(()) for name in _POLICY_METRICS},
        )

    def update(state: DimeState, batch, key, counters) -> tuple[DimeState, Metrics]:
        critic_key, policy_key = jax.random.split(key)
        state, critic_metrics = update_critics(state, batch.transition, critic_key)

        def update_policy_and_temperature(state: DimeState) -> DimeState:
            state, running_cost = update_policy(state, batch.transition.obs, policy_key)
            return update_temperature(state, running_cost)

        due = (counters.update + 1) % config.policy_delay == 0
        state = jax.lax.cond(due, update_policy_and_temperature, lambda state: state, state)
        return state, critic_metrics | state.policy_metrics | _diffusion_metrics(state)

    def update_critics(state: DimeState, transition, key) -> tuple[DimeState, Metrics]:
        next_sample = state.policy.sample(transition.next_obs, key)
        backup = SoftBackup(
            reward=transition.reward,
            discount=config.discount * (1.0 - transition.terminated),
            entropy_cost=jnp.exp(state.log_temperature) * next_sample.log_prob,
        )
        gradient, (critic_stats, metrics) = jax.grad(joint_critic_loss, has_aux=True)(
            state.critics, state.critic_stats, transition, next_sample.action, backup, head
        )
        critics, optimizer, norm = gradient_step(
            critic_optimizer, gradient, state.critic_optimizer, state.critics
        )
        state = state._replace(
            critics=critics, critic_stats=critic_stats, critic_optimizer=optimizer
        )
        return state, metrics | {"critic_gradient_norm": norm}

    def update_policy(state: DimeState, obs, key) -> tuple[DimeState, Array]:
        def policy_loss(policy: DiffusionPolicy):
            sample = policy.sample(obs, key)
            value = mean_value(state.critics, state.critic_stats, obs, sample.action, head)
            temperature = jnp.exp(state.log_temperature)
            return max_entropy_policy_loss(sample.log_prob, value, temperature), sample

        (loss, sample), gradient = jax.value_and_grad(policy_loss, has_aux=True)(state.policy)
        policy, optimizer, norm = gradient_step(
            policy_optimizer, gradient, state.policy_optimizer, state.policy
        )
        metrics = {
            "policy_loss": loss,
            "policy_gradient_norm": norm,
            "running_cost": sample.running_cost.mean(),
            "entropy_bound_per_dim": -sample.log_prob.mean() / spec.action_dim,
        }
        state = state._replace(policy=policy, policy_optimizer=optimizer, policy_metrics=metrics)
        return state, sample.running_cost

    def update_temperature(state: DimeState, running_cost) -> DimeState:
        if not config.temperature.learn:
            return state
        gradient = jax.grad(temperature_loss)(
            state.log_temperature, running_cost, target_running_cost
        )
        log_temperature, optimizer, _ = gradient_step(
            temperature_optimizer, gradient, state.temperature_optimizer, state.log_temperature
        )
        return state._replace(log_temperature=log_temperature, temperature_optimizer=optimizer)

    def best_of_n(state: DimeState, obs, key, counters):
        candidates = jnp.broadcast_to(obs, (config.num_action_candidates, *obs.shape))
        actions = state.policy.sample(candidates, key).action
        values = mean_value(state.critics, state.critic_stats, candidates, actions, head)
        return jnp.take_along_axis(actions, values.argmax(axis=0)[None, ..., None], axis=0)[0]

    act = {
        "explore": _sample,
        "stochastic": _sample,
        "deterministic": _mean_path,
        "best_of_n": best_of_n,
    }
    return Agent(init=init, act=act, update=update)


def _sample(state: DimeState, obs, key, counters):
    return state.policy.sample(obs, key).action


def _mean_path(state: DimeState, obs, key, counters):
    return state.policy.mean_path(obs)


def _diffusion_metrics(state: DimeState) -> Metrics:
    return {
        "temperature": jnp.exp(state.log_temperature),
        "step_sizes": state.policy.step_sizes().mean(axis=-1),
        "diffusion_scale": state.policy.diffusion_scale(),
    }
