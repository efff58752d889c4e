"""SAC: soft actor-critic (Haarnoja et al. 2018), as today's reference codes compute it.

A tanh-Gaussian policy, the minimum of two critics with slow copies, a learnt temperature.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax

from dime.algorithms.algorithm import Algorithm, Preset
from dime.critics.heads import ScalarHead, SoftBackup, smallest
from dime.critics.target import TargetCriticConfig, TargetCritics, init_critics
from dime.errors import require_at_least, require_unit_interval
from dime.networks.mlp import Mlp
from dime.optimizers import AdamConfig
from dime.policies.tanh_gaussian import TanhGaussian
from dime.types import Agent, EnvSpec, Metrics
from dime.updates.gradient_step import descend
from dime.updates.modes import best_of_n
from dime.updates.policy_losses import max_entropy_policy_loss
from dime.updates.target_critics import bellman_step, value_of
from dime.updates.temperature import EntropyTemperatureConfig, Temperature, log_temperature_loss


@dataclass(frozen=True)
class SacPolicyConfig(AdamConfig):
    """The network that gives mean and standard deviation."""

    hidden_dim: int = 256
    """Width of the hidden layers."""
    num_hidden_layers: int = 2
    """Hidden layers."""

    def __post_init__(self):
        super().__post_init__()
        require_at_least(self, 1, "hidden_dim", "num_hidden_layers")


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
    critics: TargetCritics
    temperature: Temperature


def sac(config: SacConfig, spec: EnvSpec) -> Agent:
    """The algorithm for an environment of the given sizes."""
    head = ScalarHead(combine=smallest)
    policy_optimizer = config.policy.make_optimizer()
    critic_optimizer = config.critic.make_optimizer()
    target_entropy = config.temperature.target_entropy_per_dim * spec.action_dim

    def init(key) -> SacState:
        policy_key, critic_key = jax.random.split(key)
        hidden = [config.policy.hidden_dim] * config.policy.num_hidden_layers
        policy: Any = Mlp((spec.obs_dim, *hidden, 2 * spec.action_dim), jax.nn.relu, policy_key)
        sizes = config.critic.sizes(spec, head.output_dim)
        return SacState(
            policy=policy,
            policy_optimizer=policy_optimizer.init(policy),
            critics=init_critics(config.critic, sizes, jax.nn.relu, critic_key),
            temperature=Temperature.start(config.temperature),
        )

    def update(state: SacState, batch, key, counters) -> tuple[SacState, Metrics]:
        critic_key, policy_key = jax.random.split(key)
        state, critic_metrics = update_critics(state, batch.transition, critic_key)
        state, policy_metrics = update_policy(state, batch.transition.obs, policy_key)
        critics = state.critics.followed(config.critic.target_rate)
        return state._replace(critics=critics), critic_metrics | policy_metrics

    def update_critics(state: SacState, transition, key) -> tuple[SacState, Metrics]:
        following = _law(state.policy, transition.next_obs).sample(key)
        entropy_cost = state.temperature.value * following.log_prob
        backup = SoftBackup.of(transition, config.discount, entropy_cost)
        critics, metrics = bellman_step(
            state.critics, transition, following.action, backup, head, critic_optimizer
        )
        return state._replace(critics=critics), metrics

    def update_policy(state: SacState, obs, key) -> tuple[SacState, Metrics]:
        temperature = state.temperature.value

        def loss(policy: Mlp):
            sample = _law(policy, obs).sample(key)
            value = value_of(state.critics.online, head)(obs, sample.action)
            return max_entropy_policy_loss(sample.log_prob, value, temperature), sample.log_prob

        policy, optimizer, descent = descend(
            policy_optimizer, loss, state.policy_optimizer, state.policy
        )
        log_prob = descent.told
        new_temperature = state.temperature.step(
            config.temperature, lambda log: log_temperature_loss(log, log_prob, target_entropy)
        )
        metrics = {
            "policy_loss": descent.loss,
            "policy_gradient_norm": descent.gradient_norm,
            "entropy_per_dim": -log_prob.mean() / spec.action_dim,
            "temperature": temperature,
        }
        state = state._replace(
            policy=policy, policy_optimizer=optimizer, temperature=new_temperature
        )
        return state, metrics

    def sample(state: SacState, obs, key):
        return _law(state.policy, obs).sample(key).action

    def value(state: SacState, obs, action):
        return value_of(state.critics.online, head)(obs, action)

    act = {
        "explore": lambda state, obs, key, counters: sample(state, obs, key),
        "stochastic": lambda state, obs, key, counters: sample(state, obs, key),
        "deterministic": lambda state, obs, key, counters: _law(state.policy, obs).mode(),
        "best_of_n": best_of_n(sample, value, config.num_action_candidates),
    }
    return Agent(init=init, act=act, update=update)


def _law(policy: Mlp, obs) -> TanhGaussian:
    return TanhGaussian.from_output(policy(obs))


SAC = Algorithm(
    name="sac",
    paper="Haarnoja et al., ICML 2018",
    year=2018,
    policy="tanh-Gaussian",
    critic="scalar x2, target networks",
    make=sac,
    config=SacConfig,
    network_evaluations=lambda settings: (2, 2),
    presets={"paper": Preset(training={"updates_per_env_step": 1})},
)
