"""SAC: soft actor-critic (Haarnoja et al. 2018), as today's reference codes compute it.

A tanh-Gaussian policy, the minimum of two critics with slow copies, a learnt temperature.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dime.critics.heads import ScalarHead, SoftBackup
from dime.critics.target_network import (
    TargetCriticConfig,
    critic_outputs,
    follow,
    init_critics,
)
from dime.errors import require_at_least, require_positive, require_unit_interval
from dime.networks.mlp import Mlp
from dime.policies.tanh_gaussian import TanhGaussian
from dime.types import Agent, EnvSpec, Metrics, Sample
from dime.updates.candidates import best_of
from dime.updates.gradient_step import gradient_step
from dime.updates.max_entropy import max_entropy_policy_loss
from dime.updates.temperature import EntropyTemperatureConfig, Temperature, log_temperature_loss


@dataclass(frozen=True)
class SacPolicyConfig:
    """The network that gives mean and standard deviation."""

    hidden_dim: int = 256
    """Width of the hidden layers."""
    num_hidden_layers: int = 2
    """Hidden layers."""
    learning_rate: float = 3e-4
    """Of Adam."""

    def __post_init__(self):
        require_at_least(self, 1, "hidden_dim", "num_hidden_layers")
        require_positive(self, "learning_rate")


@dataclass(frozen=True)
class SacConfig:
    """Everything that SAC's mathematics depends on."""

    policy: SacPolicyConfig = field(default_factory=SacPolicyConfig)
    critic: TargetCriticConfig = field(default_factory=TargetCriticConfig)
    temperature: EntropyTemperatureConfig = field(default_factory=EntropyTemperatureConfig)
    discount: float = 0.99
    """Weight of the next step's value, in [0, 1)."""
    num_action_candidates: int = 16
    """Candidates of the evaluation mode best_of_n (our choice)."""

    def __post_init__(self):
        require_at_least(self, 1, "num_action_candidates")
        require_unit_interval(self, "discount")


class SacState(NamedTuple):
    """What training changes."""

    policy: Mlp
    policy_optimizer: Any
    critics: Mlp
    target_critics: Mlp
    critic_optimizer: Any
    temperature: Temperature


def sac(config: SacConfig, spec: EnvSpec) -> Agent:
    """The algorithm for an environment of the given sizes."""
    head = ScalarHead(combine=jnp.min)
    policy_optimizer = optax.adam(config.policy.learning_rate)
    critic_optimizer = config.critic.make_optimizer()
    target_entropy = config.temperature.target_entropy_per_dim * spec.action_dim

    def init(key) -> SacState:
        policy_key, critic_key = jax.random.split(key)
        hidden = [config.policy.hidden_dim] * config.policy.num_hidden_layers
        policy = Mlp((spec.obs_dim, *hidden, 2 * spec.action_dim), jax.nn.relu, policy_key)
        critics = init_critics(config.critic, head.output_dim, spec, jax.nn.relu, critic_key)
        return SacState(
            policy=policy,
            policy_optimizer=policy_optimizer.init(policy),  # pyright: ignore[reportArgumentType]
            critics=critics,
            target_critics=jax.tree.map(jnp.copy, critics),
            critic_optimizer=critic_optimizer.init(critics),  # pyright: ignore[reportArgumentType]
            temperature=Temperature.start(config.temperature),
        )

    def update(state: SacState, batch, key, counters) -> tuple[SacState, Metrics]:
        critic_key, policy_key = jax.random.split(key)
        state, critic_metrics = update_critics(state, batch.transition, critic_key)
        state, policy_metrics = update_policy(state, batch.transition.obs, policy_key)
        target = follow(state.target_critics, state.critics, config.critic.target_rate)
        return state._replace(target_critics=target), critic_metrics | policy_metrics

    def update_critics(state: SacState, transition, key) -> tuple[SacState, Metrics]:
        following = _sample(state, transition.next_obs, key)
        outputs = critic_outputs(state.target_critics, transition.next_obs, following.action)
        entropy_cost = state.temperature.value * following.log_prob
        discount = config.discount * (1.0 - transition.terminated)
        target = head.target(outputs, SoftBackup(transition.reward, discount, entropy_cost))

        def critic_loss(critics: Mlp):
            outputs = critic_outputs(critics, transition.obs, transition.action)
            loss, _ = head.loss(outputs, target)
            return loss, head.value(outputs).mean()

        (loss, q_mean), gradient = jax.value_and_grad(critic_loss, has_aux=True)(state.critics)
        critics, optimizer, norm = gradient_step(
            critic_optimizer, gradient, state.critic_optimizer, state.critics
        )
        state = state._replace(critics=critics, critic_optimizer=optimizer)
        return state, {"critic_loss": loss, "q_mean": q_mean, "critic_gradient_norm": norm}

    def update_policy(state: SacState, obs, key) -> tuple[SacState, Metrics]:
        temperature = state.temperature.value

        def policy_loss(policy: Mlp):
            sample = _sample(state._replace(policy=policy), obs, key)
            value = head.combined_value(critic_outputs(state.critics, obs, sample.action))
            return max_entropy_policy_loss(sample.log_prob, value, temperature), sample

        (loss, sample), gradient = jax.value_and_grad(policy_loss, has_aux=True)(state.policy)
        policy, optimizer, norm = gradient_step(
            policy_optimizer, gradient, state.policy_optimizer, state.policy
        )
        metrics = {
            "policy_loss": loss,
            "policy_gradient_norm": norm,
            "entropy_per_dim": -sample.log_prob.mean() / spec.action_dim,
            "temperature": temperature,
        }
        new_temperature = state.temperature.step(
            config.temperature,
            lambda log: log_temperature_loss(log, sample.log_prob, target_entropy),
        )
        return state._replace(
            policy=policy, policy_optimizer=optimizer, temperature=new_temperature
        ), metrics

    def stochastic(state: SacState, obs, key, counters):
        return _sample(state, obs, key).action

    def best_of_n(state: SacState, obs, key, counters):
        def value(obs, actions):
            return head.combined_value(critic_outputs(state.critics, obs, actions))

        candidates = jnp.broadcast_to(obs, (config.num_action_candidates, *obs.shape))
        return best_of(candidates, _sample(state, candidates, key).action, value)

    act = {
        "explore": stochastic,
        "stochastic": stochastic,
        "deterministic": lambda state, obs, key, counters: _law(state, obs).mode(),
        "best_of_n": best_of_n,
    }
    return Agent(init=init, act=act, update=update)


def _law(state: SacState, obs) -> TanhGaussian:
    return TanhGaussian.from_output(state.policy(obs))


def _sample(state: SacState, obs, key) -> Sample:
    return _law(state, obs).sample(key)
