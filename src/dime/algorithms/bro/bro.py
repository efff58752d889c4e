"""BRO: bigger, regularised, optimistic (Nauman et al., NeurIPS 2024), and its variant BRO-Fast.

SAC with large residual critics of quantiles, a second actor that explores where the critics
disagree, and full resets.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax

from dime.algorithms.algorithm import Algorithm, Preset
from dime.algorithms.bro.optimism import Explorer, explore_step
from dime.algorithms.bro.optimistic import BroNetConfig, BroPolicy, OptimismConfig
from dime.algorithms.bro.resets import with_resets
from dime.algorithms.bro.residual import BroNet
from dime.critics.heads import QuantileHead, SoftBackup
from dime.critics.target import TargetCritics, critic_outputs, stacked
from dime.errors import require, require_at_least, require_rate, require_unit_interval
from dime.types import Agent, EnvSpec, Metrics
from dime.updates.gradient_step import descend
from dime.updates.modes import best_of_n
from dime.updates.policy_losses import max_entropy_policy_loss
from dime.updates.target_critics import bellman_step, value_of
from dime.updates.temperature import EntropyTemperatureConfig, Temperature, temperature_loss

_RESETS = (15_001, 50_001, 250_001, 500_001, 750_001, 1_000_001, 1_500_001, 2_000_001)


@dataclass(frozen=True)
class BroCriticConfig(BroNetConfig):
    """The two critics and their slow copies."""

    hidden_dim: int = 512
    """Width of the networks."""
    num_blocks: int = 2
    """Residual blocks."""
    num_quantiles: int = 100
    """Quantiles of the return (DIME, table 3)."""
    target_rate: float = 0.005
    """How far the copies move towards the critics in each update, in (0, 1]."""

    def __post_init__(self):
        super().__post_init__()
        require_at_least(self, 1, "num_quantiles")
        require_rate(self, "target_rate")


@dataclass(frozen=True)
class BroConfig:
    """Everything that BRO's mathematics depends on; the defaults are DIME's table 3."""

    policy: BroNetConfig = field(default_factory=BroNetConfig)
    critic: BroCriticConfig = field(default_factory=BroCriticConfig)
    optimism: OptimismConfig = field(default_factory=OptimismConfig)
    temperature: EntropyTemperatureConfig = field(
        default_factory=lambda: EntropyTemperatureConfig(target_entropy_per_dim=-0.5, adam_b1=0.5)
    )
    reset_env_steps: tuple[int, ...] = _RESETS
    """Env steps at which everything but the replay begins again (released code)."""
    discount: float = 0.99
    """Weight of the next step's value, in [0, 1)."""
    num_action_candidates: int = 16
    """Candidates of the evaluation mode best_of_n (our choice)."""

    def __post_init__(self):
        require_at_least(self, 1, "num_action_candidates")
        require_unit_interval(self, "discount")
        require(
            all(0 < step < 2**31 for step in self.reset_env_steps),
            f"reset_env_steps are {self.reset_env_steps}; each must be 1 to 2147483647.",
        )


@dataclass(frozen=True)
class BroFastConfig(BroConfig):
    """BRO with two updates per env step (the preset's) and one reset."""

    reset_env_steps: tuple[int, ...] = _RESETS[:1]
    """Env steps at which everything but the replay begins again (released code)."""


def init_critics(config: BroCriticConfig, spec: EnvSpec, key) -> TargetCritics:
    """Two residual critics of quantiles."""
    sizes = (spec.obs_dim + spec.action_dim, config.hidden_dim, config.num_quantiles)
    online = stacked(lambda one: BroNet(sizes, config.num_blocks, one), 2, key)
    return TargetCritics.start(online, config.make_optimizer())


class BroState(NamedTuple):
    """What training changes."""

    policy: BroPolicy
    policy_optimizer: Any
    explorer: Explorer
    critics: TargetCritics
    temperature: Temperature


def bro(config: BroConfig, spec: EnvSpec) -> Agent:
    """The algorithm for an environment of the given sizes."""
    head = QuantileHead(config.critic.num_quantiles)
    policy_optimizer = config.policy.make_optimizer()
    critic_optimizer = config.critic.make_optimizer()
    target_log_prob = -config.temperature.target_entropy_per_dim * spec.action_dim

    def init(key) -> BroState:
        policy_key, explorer_key, critic_key = jax.random.split(key, 3)
        policy: Any = BroPolicy(config.policy, spec, policy_key)
        return BroState(
            policy=policy,
            policy_optimizer=policy_optimizer.init(policy),
            explorer=Explorer.start(config.optimism, spec, explorer_key),
            critics=init_critics(config.critic, spec, critic_key),
            temperature=Temperature.start(config.temperature),
        )

    def update(state: BroState, batch, key, counters) -> tuple[BroState, Metrics]:
        critic_key, policy_key, explorer_key = jax.random.split(key, 3)
        obs = batch.transition.obs
        state, critic_metrics = update_critics(state, batch.transition, critic_key)
        state, policy_metrics = update_policy(state, obs, policy_key)
        law = state.policy.law(obs)
        explorer, explorer_metrics = explore_step(
            config.optimism,
            state.explorer,
            obs,
            law,
            lambda action: critic_outputs(state.critics.online, obs, action),
            explorer_key,
        )
        state = state._replace(explorer=explorer)
        return state, critic_metrics | policy_metrics | explorer_metrics

    def update_critics(state: BroState, transition, key) -> tuple[BroState, Metrics]:
        following = state.policy.law(transition.next_obs).sample(key)
        entropy_cost = state.temperature.value * following.log_prob
        backup = SoftBackup.of(transition, config.discount, entropy_cost)
        critics, metrics = bellman_step(
            state.critics, transition, following.action, backup, head, critic_optimizer
        )
        return state._replace(critics=critics.followed(config.critic.target_rate)), metrics

    def update_policy(state: BroState, obs, key) -> tuple[BroState, Metrics]:
        temperature = state.temperature.value

        def loss(policy: BroPolicy):
            sample = policy.law(obs).sample(key)
            q = value(state, obs, sample.action)
            return max_entropy_policy_loss(sample.log_prob, q, temperature), sample.log_prob

        policy, optimizer, descent = descend(
            policy_optimizer, loss, state.policy_optimizer, state.policy
        )
        log_prob = descent.told
        new_temperature = state.temperature.step(
            config.temperature, lambda log: temperature_loss(log, log_prob, target_log_prob)
        )
        state = state._replace(
            policy=policy, policy_optimizer=optimizer, temperature=new_temperature
        )
        return state, {
            "policy_loss": descent.loss,
            "policy_gradient_norm": descent.gradient_norm,
            "entropy_per_dim": -log_prob.mean() / spec.action_dim,
            "temperature": temperature,
        }

    def explore(state: BroState, obs, key, counters):
        return state.explorer.law(obs, state.policy.law(obs)).sample(key).action

    def sample(state: BroState, obs, key):
        return state.policy.law(obs).sample(key).action

    def value(state: BroState, obs, action):
        return value_of(state.critics.online, head)(obs, action)

    act = {
        "explore": explore,
        "stochastic": lambda state, obs, key, counters: sample(state, obs, key),
        "deterministic": lambda state, obs, key, counters: state.policy.law(obs).mode(),
        "best_of_n": best_of_n(sample, value, config.num_action_candidates),
    }
    return with_resets(Agent(init=init, act=act, update=update), config.reset_env_steps)


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


def _training(updates_per_env_step: int) -> dict[str, Any]:
    return {
        "updates_per_env_step": updates_per_env_step,
        "batch_size": 128,
        "num_random_steps": 2_500,
    }


_LAPTOP = {
    "policy": {"hidden_dim": 128},
    "optimism": {"hidden_dim": 128},
    "critic": {"hidden_dim": 128, "num_blocks": 1},
    "reset_env_steps": (),
}

BRO = Algorithm(
    name="bro",
    paper="Nauman et al., NeurIPS 2024",
    year=2024,
    policy="tanh-Gaussian, a second one explores",
    critic="quantile x2, residual networks, target networks",
    make=bro,
    config=BroConfig,
    network_evaluations=lambda settings: (4, 4),
    check=refuse_missed_resets,
    presets={
        "paper": Preset(training=_training(10)),
        "laptop": Preset(_LAPTOP, {"updates_per_env_step": 4}),
    },
)
BRO_FAST = Algorithm(
    name="bro-fast",
    paper="Nauman et al., NeurIPS 2024",
    year=2024,
    policy="tanh-Gaussian, a second one explores",
    critic="quantile x2, residual networks, target networks",
    make=bro,
    config=BroFastConfig,
    network_evaluations=lambda settings: (4, 4),
    check=refuse_missed_resets,
    presets={"paper": Preset(training=_training(2)), "laptop": Preset(_LAPTOP)},
)
