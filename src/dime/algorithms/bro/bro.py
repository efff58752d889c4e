"""BRO: bigger, regularised, optimistic (Nauman et al., NeurIPS 2024), and its variant BRO-Fast.

SAC with large residual critics of quantiles, a second actor that explores where the critics
disagree, and full resets.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax

from dime.algorithms.algorithm import Algorithm, AlgorithmConfig
from dime.algorithms.bro.explorer import (
    BroNetConfig,
    BroPolicy,
    Explorer,
    OptimismConfig,
    explore_step,
)
from dime.algorithms.bro.networks import BroNet
from dime.algorithms.bro.resets import with_resets
from dime.critics.critics import Critics, CriticState
from dime.critics.heads import QuantileHead, SoftBackup
from dime.errors import Count, Rate, require
from dime.optimizers import TrainState
from dime.types import Agent, EnvSpec, Metrics
from dime.updates.action_modes import policy_modes
from dime.updates.max_entropy import (
    EntropyTemperatureConfig,
    Temperature,
    reverse_kl,
    temperature_loss,
)

_RESETS = (15_001, 50_001, 250_001, 500_001, 750_001, 1_000_001, 1_500_001, 2_000_001)


@dataclass(frozen=True)
class BroCriticConfig(BroNetConfig):
    """The two critics and their target parameters."""

    hidden_dim: Count = 512
    """Width of the hidden layers."""
    num_blocks: Count = 2
    """Number of residual blocks."""
    num_quantiles: Count = 100
    """Quantiles of the return (DIME, table 3)."""
    target_rate: Rate = 0.005
    """Polyak rate of the target parameters, per update, in (0, 1]."""

    def make(self, spec: EnvSpec) -> Critics:
        """Two residual critics of quantiles."""
        sizes = (spec.obs_dim + spec.action_dim, self.hidden_dim, self.num_quantiles)
        return Critics(
            make=lambda key: BroNet(sizes, self.num_blocks, key),
            num_critics=2,
            head=QuantileHead(self.num_quantiles),
            optimizer=self.make_optimizer(),
            target_rate=self.target_rate,
        )


@dataclass(frozen=True)
class BroConfig(AlgorithmConfig):
    """Everything that BRO's mathematics depends on; the defaults are DIME's table 3."""

    policy: BroNetConfig = field(default_factory=BroNetConfig)
    critic: BroCriticConfig = field(default_factory=BroCriticConfig)
    optimism: OptimismConfig = field(default_factory=OptimismConfig)
    temperature: EntropyTemperatureConfig = field(
        default_factory=lambda: EntropyTemperatureConfig(target_entropy_per_dim=-0.5, adam_b1=0.5)
    )
    reset_env_steps: tuple[int, ...] = _RESETS
    """Env steps at which everything except the replay is reset (released code)."""

    def __post_init__(self):
        super().__post_init__()
        require(
            all(0 < step < 2**31 for step in self.reset_env_steps),
            f"reset_env_steps are {self.reset_env_steps}; each must be 1 to 2147483647.",
        )


@dataclass(frozen=True)
class BroFastConfig(BroConfig):
    """BRO with two updates per env step (the preset's) and one reset."""

    reset_env_steps: tuple[int, ...] = _RESETS[:1]
    """Env steps at which everything except the replay is reset (released code)."""


class BroState(NamedTuple):
    """What training changes."""

    policy: TrainState
    explorer: Explorer
    critics: CriticState
    temperature: Temperature


def bro(config: BroConfig, spec: EnvSpec) -> Agent:
    """The algorithm for an environment of the given sizes."""
    critics = config.critic.make(spec)
    policy_optimizer = config.policy.make_optimizer()
    target_log_prob = -config.temperature.target_entropy_per_dim * spec.action_dim

    def init(key) -> BroState:
        policy_key, explorer_key, critic_key = jax.random.split(key, 3)
        policy = BroPolicy(config.policy, spec, policy_key)
        return BroState(
            policy=TrainState.start(policy, policy_optimizer),
            explorer=Explorer.start(config.optimism, spec, explorer_key),
            critics=critics.start(critic_key),
            temperature=Temperature.start(config.temperature),
        )

    def update(state: BroState, batch, key, counters) -> tuple[BroState, Metrics]:
        critic_key, policy_key, explorer_key = jax.random.split(key, 3)
        obs = batch.transition.obs
        state, critic_metrics = update_critics(state, batch.transition, critic_key)
        state, policy_metrics = update_policy(state, obs, policy_key)
        policy = state.policy.module.distribution(obs)
        outputs_of = partial(state.critics.outputs, obs)
        explorer, explorer_metrics = explore_step(
            config.optimism, state.explorer, obs, policy, outputs_of, explorer_key
        )
        metrics = critic_metrics | policy_metrics | explorer_metrics
        return state._replace(explorer=explorer), metrics

    def update_critics(state: BroState, transition, key) -> tuple[BroState, Metrics]:
        next_sample = state.policy.module.sample(transition.next_obs, key)
        entropy_cost = state.temperature.value * next_sample.log_prob
        backup = SoftBackup.of(transition, config.discount, entropy_cost)
        new, metrics = critics.step(state.critics, transition, next_sample.action, backup)
        return state._replace(critics=critics.follow(new)), metrics

    def update_policy(state: BroState, obs, key) -> tuple[BroState, Metrics]:
        def loss(policy):
            return reverse_kl(policy, obs, key, partial(value, state), state.temperature.value)

        policy, descent = state.policy.descend(policy_optimizer, loss)
        log_prob = descent.aux.log_prob
        temperature = state.temperature.step(
            config.temperature, lambda log: temperature_loss(log, log_prob, target_log_prob)
        )
        return state._replace(policy=policy, temperature=temperature), descent.metrics() | {
            "entropy_per_dim": -log_prob.mean() / spec.action_dim,
            "temperature": state.temperature.value,
        }

    def explore(state: BroState, obs, key, counters):
        policy = state.policy.module.distribution(obs)
        return state.explorer.distribution(obs, policy).sample(key).action

    def value(state: BroState, obs, action):
        return critics.value(state.critics, obs, action)

    modes = policy_modes(value, config.num_action_candidates)
    agent = Agent(init=init, act={"explore": explore, **modes}, update=update)
    return with_resets(agent, config.reset_env_steps)


def refuse_missed_resets(settings: BroConfig, training: Any) -> None:
    """Raises `DimeError` where a reset falls on an env step without updates."""
    every = max(training.env_steps_per_update, training.envs_per_seed)
    first = training.num_random_steps
    missed = [step for step in settings.reset_env_steps if step % every or step <= first]
    require(
        not missed,
        f"reset_env_steps holds {missed[:1]}, where there is no update: the first {first} env "
        f"steps are random (num_random_steps is {first}) and updates come at multiples of {every} "
        "(the larger of env_steps_per_update and envs_per_seed). Choose others.",
    )


BRO = Algorithm(
    name="bro",
    paper="Nauman et al., NeurIPS 2024",
    url="https://arxiv.org/abs/2405.16158",
    year=2024,
    policy="tanh-Gaussian, a second one explores",
    critic="quantile x2, residual networks, target networks",
    make=bro,
    config=BroConfig,
    network_evaluations=lambda settings: (4, 4),
    check=refuse_missed_resets,
)
BRO_FAST = replace(BRO, name="bro-fast", config=BroFastConfig)
