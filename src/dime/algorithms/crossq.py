"""CrossQ (Bhatt et al., ICLR 2024): SAC without target networks, with batch renormalisation.

Policy and critics are normalised networks; current and next pairs share one pass of the critics.
"""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dime.algorithms.algorithm import Algorithm, Preset
from dime.critics.heads import ScalarHead, SoftBackup, smallest
from dime.critics.joint import CrossQCriticConfig, JointCritics
from dime.errors import require_at_least, require_positive, require_unit_interval
from dime.networks.batch_renorm import WARMUP_CALLS
from dime.networks.batch_renorm_mlp import BatchRenormMlp, Stats
from dime.policies.tanh_gaussian import TanhGaussian
from dime.types import Agent, EnvSpec, Metrics
from dime.updates.gradient_step import descend
from dime.updates.modes import best_of_n
from dime.updates.policy_losses import combined_value, joint_critic_step, max_entropy_policy_loss
from dime.updates.temperature import EntropyTemperatureConfig, Temperature, temperature_loss


@dataclass(frozen=True)
class CrossQPolicyConfig:
    """The normalised network that gives mean and standard deviation."""

    hidden_dim: int = 256
    """Width of the hidden layers (CrossQ; DIME table 3)."""
    num_hidden_layers: int = 3
    """Hidden layers (DIME table 3; CrossQ on Gym: 2)."""
    learning_rate: float = 7e-4
    """Of Adam (DIME table 3; CrossQ on Gym: 1e-3)."""
    adam_b1: float = 0.5
    """Adam's decay of the first moment, in [0, 1) (released code)."""
    renorm_warmup_updates: int = WARMUP_CALLS
    """Policy updates with plain batch normalisation before renormalisation (released code)."""

    def __post_init__(self):
        require_at_least(self, 1, "hidden_dim", "num_hidden_layers")
        require_at_least(self, 0, "renorm_warmup_updates")
        require_positive(self, "learning_rate")
        require_unit_interval(self, "adam_b1")


@dataclass(frozen=True)
class CrossQConfig:
    """Everything that CrossQ's mathematics depends on; the defaults are DIME's table 3."""

    policy: CrossQPolicyConfig = field(default_factory=CrossQPolicyConfig)
    critic: CrossQCriticConfig = field(
        default_factory=lambda: CrossQCriticConfig(learning_rate=7e-4)
    )
    temperature: EntropyTemperatureConfig = field(default_factory=EntropyTemperatureConfig)
    discount: float = 0.99
    """Weight of the next step's value, in [0, 1)."""
    policy_delay: int = 3
    """Critic updates per update of policy and temperature, counted over the run."""
    num_action_candidates: int = 16
    """Candidates of the evaluation mode best_of_n (our choice)."""

    def __post_init__(self):
        require_at_least(self, 1, "policy_delay", "num_action_candidates")
        require_unit_interval(self, "discount")


_POLICY_METRICS = ("policy_loss", "policy_gradient_norm", "entropy_per_dim")


class CrossQState(NamedTuple):
    """What training changes."""

    policy: BatchRenormMlp
    policy_stats: Stats
    policy_optimizer: Any
    critics: JointCritics
    temperature: Temperature
    policy_metrics: Metrics  # of the last policy update, zeros before the first


def crossq(config: CrossQConfig, spec: EnvSpec) -> Agent:
    """The algorithm for an environment of the given sizes."""
    head = ScalarHead(combine=smallest)
    policy_optimizer = optax.adam(config.policy.learning_rate, b1=config.policy.adam_b1)
    critic_optimizer = config.critic.make_optimizer()
    target_log_prob = -config.temperature.target_entropy_per_dim * spec.action_dim

    def init(key) -> CrossQState:
        policy_key, critic_key = jax.random.split(key)
        hidden = [config.policy.hidden_dim] * config.policy.num_hidden_layers
        sizes = (spec.obs_dim, *hidden, 2 * spec.action_dim)
        policy = BatchRenormMlp(sizes, config.policy.renorm_warmup_updates, policy_key)
        parameters: Any = policy
        return CrossQState(
            policy=policy,
            policy_stats=policy.initial_stats(),
            policy_optimizer=policy_optimizer.init(parameters),
            critics=JointCritics.start(config.critic, head.output_dim, spec, critic_key),
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
        following = _law(state, transition.next_obs).sample(key)  # running statistics
        entropy_cost = state.temperature.value * following.log_prob
        backup = SoftBackup.of(transition, config.discount, entropy_cost)
        critics, metrics = joint_critic_step(
            state.critics, transition, following.action, backup, head, critic_optimizer
        )
        return state._replace(critics=critics), metrics

    def update_policy(state: CrossQState, obs, key) -> CrossQState:
        def loss(policy: BatchRenormMlp):
            output, stats = policy.train(obs, state.policy_stats)
            sample = TanhGaussian.from_output(output).sample(key)
            q = value(state, obs, sample.action)
            loss = max_entropy_policy_loss(sample.log_prob, q, state.temperature.value)
            return loss, (sample.log_prob, stats)

        policy, optimizer, descent = descend(
            policy_optimizer, loss, state.policy_optimizer, state.policy
        )
        log_prob, stats = descent.told
        temperature = state.temperature.step(
            config.temperature, lambda log: temperature_loss(log, log_prob, target_log_prob)
        )
        entropy_per_dim = -log_prob.mean() / spec.action_dim
        measured = (descent.loss, descent.gradient_norm, entropy_per_dim)
        return state._replace(
            policy=policy,
            policy_stats=stats,
            policy_optimizer=optimizer,
            temperature=temperature,
            policy_metrics=dict(zip(_POLICY_METRICS, measured, strict=True)),
        )

    def sample(state: CrossQState, obs, key):
        return _law(state, obs).sample(key).action

    def value(state: CrossQState, obs, action):
        return combined_value(state.critics.online, state.critics.stats, obs, action, head)

    def stochastic(state: CrossQState, obs, key, counters):
        return sample(state, obs, key)

    act = {
        "explore": stochastic,
        "stochastic": stochastic,
        "deterministic": lambda state, obs, key, counters: _law(state, obs).mode(),
        "best_of_n": best_of_n(sample, value, config.num_action_candidates),
    }
    return Agent(init=init, act=act, update=update)


def _law(state: CrossQState, obs) -> TanhGaussian:
    """The policy's law in evaluation mode."""
    return TanhGaussian.from_output(state.policy(obs, state.policy_stats))


_GYM = Preset(
    settings={
        "policy": {"num_hidden_layers": 2, "learning_rate": 1e-3},
        "critic": {"learning_rate": 1e-3},
        "temperature": {"learning_rate": 1e-3},
    },
    training={"updates_per_env_step": 1},
)
_RELEASED_DM_CONTROL = Preset(  # the authors' submission script, the same for every task
    {part: {"learning_rate": 8e-4} for part in ("policy", "critic", "temperature")}
)

CROSSQ = Algorithm(
    name="crossq",
    paper="Bhatt et al., ICLR 2024",
    year=2024,
    policy="tanh-Gaussian, batch renormalisation",
    critic="scalar x2, joint pass, batch renormalisation",
    make=crossq,
    config=CrossQConfig,
    network_evaluations=lambda settings: (1, 2),
    presets={
        # DIME, appendix E: table 3 on DMC and MyoSuite, the original settings on Gym.
        "paper": Preset(by_env={"mujoco": _GYM, "Swimmer-*": Preset({"discount": 0.9999})}),
        "released": replace(_GYM, by_env={"dm_control": _RELEASED_DM_CONTROL}),
        "laptop": Preset({"critic": {"hidden_dim": 256}}),
    },
)
