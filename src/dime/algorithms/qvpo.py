"""QVPO: Q-weighted variational policy optimisation (Ding et al., NeurIPS 2024).

A denoising policy imitates the best of its own actions, weighted by how much better they are than
its average, and a few uniform actions that keep it exploring.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dime.algorithms.algorithm import Algorithm, AlgorithmConfig
from dime.algorithms.dipo import SlowDdpmPolicyConfig, dipo_critics, dipo_policy
from dime.critics.critics import CriticState, TargetCriticConfig, follow
from dime.critics.heads import SoftBackup
from dime.errors import Checked, Count, NonNegative, at_least, require
from dime.optimizers import TrainState
from dime.policies.ddpm import DdpmPolicy
from dime.types import Agent, EnvSpec, Metrics
from dime.updates.action_modes import best_of, chain_modes, repeat
from dime.updates.max_entropy import Value


@dataclass(frozen=True)
class UniformActionsConfig(Checked):
    """Uniform actions in the policy's loss, next to the best sampled action of each state."""

    num: Count = 10
    """Number per state, at least 1."""
    initial_weight: NonNegative = 0.02
    """Initial weight, relative to the best action's."""
    final_weight: NonNegative = 0.002
    """Final weight."""
    decay_env_steps: Count = 1_000_000
    """Env steps in which the weight would decay linearly to 0 (released code: the run's)."""

    def __post_init__(self):
        super().__post_init__()
        require(
            self.final_weight <= self.initial_weight,
            f"final_weight is {self.final_weight}; it must be at most initial_weight, "
            f"{self.initial_weight}.",
        )

    def weight(self, env_step):
        """Their weight at this env step."""
        remaining = 1.0 - env_step / self.decay_env_steps
        return jnp.maximum(self.final_weight, self.initial_weight * remaining)


@dataclass(frozen=True)
class QvpoConfig(AlgorithmConfig):
    """Everything that QVPO's mathematics depends on; the defaults are DIME's table 2."""

    policy: SlowDdpmPolicyConfig = field(
        default_factory=lambda: SlowDdpmPolicyConfig(num_denoising_steps=20)
    )
    critic: TargetCriticConfig = field(
        default_factory=lambda: TargetCriticConfig(
            num_hidden_layers=3, adam_epsilon=1e-5, max_gradient_norm=2.0
        )
    )
    uniform_actions: UniformActionsConfig = field(default_factory=UniformActionsConfig)
    num_training_candidates: Annotated[int, at_least(2)] = 64
    """Actions sampled per state in a policy update."""
    num_exploration_candidates: Count = 4
    """Actions sampled in training and in the target; the one with the largest value is used."""
    num_action_candidates: Count = 32
    """Actions sampled in the evaluation mode best_of_n; the one with the largest value is used."""


class QvpoState(NamedTuple):
    """What training changes."""

    policy: TrainState
    slow_policy: DdpmPolicy
    critics: CriticState


def qvpo(config: QvpoConfig, spec: EnvSpec) -> Agent:
    """The algorithm for an environment of the given sizes."""
    critics = dipo_critics(config.critic, spec)
    policy_optimizer = config.policy.make_optimizer()
    uniform = config.uniform_actions

    def init(key) -> QvpoState:
        policy_key, critic_key = jax.random.split(key)
        policy = dipo_policy(config.policy, spec, policy_key)
        return QvpoState(
            policy=TrainState.start(policy, policy_optimizer),
            slow_policy=jax.tree.map(jnp.copy, policy),
            critics=critics.start(critic_key),
        )

    def update(state: QvpoState, batch, key, counters) -> tuple[QvpoState, Metrics]:
        critic_key, policy_key = jax.random.split(key)
        for_critics, for_policy = batch.halves()
        state, metrics = update_critics(state, for_critics.transition, critic_key)
        state, policy_metrics = update_policy(
            state, for_policy.transition.obs, policy_key, counters.env_step
        )
        rate = config.policy.target_rate
        return state._replace(
            slow_policy=follow(state.slow_policy, state.policy.module, rate),
            critics=critics.follow(state.critics),
        ), metrics | policy_metrics

    def update_critics(state: QvpoState, transition, key) -> tuple[QvpoState, Metrics]:
        value, num = partial(critics.slow_value, state.critics), config.num_exploration_candidates
        next_action = best_action(state.slow_policy, value, transition.next_obs, num, key)
        backup = SoftBackup.of(transition, config.discount)
        new, metrics = critics.step(state.critics, transition, next_action, backup)
        return state._replace(critics=new), metrics

    def update_policy(state: QvpoState, obs, key, env_step) -> tuple[QvpoState, Metrics]:
        draw_key, uniform_key, noise_key = jax.random.split(key, 3)
        drawn = state.policy.module.sample(obs, draw_key, config.num_training_candidates)
        q = value(state, obs, drawn)
        advantage = advantage_of_best(q)
        action, relative = with_uniform_actions(uniform, best_of(drawn, q), uniform_key, env_step)
        weight = relative[:, None, None] * advantage[None, :, None]

        def loss(policy: DdpmPolicy):
            errors = policy.noise_errors(repeat(obs, 1 + uniform.num), action, noise_key)
            return (weight * errors).mean(), None

        policy, descent = state.policy.descend(policy_optimizer, loss)
        metrics = descent.metrics() | {"advantage": advantage.mean()}
        return state._replace(policy=policy), metrics

    def value(state: QvpoState, obs, action):
        return critics.value(state.critics, obs, action)

    def explore(state: QvpoState, obs, key, counters):
        num = config.num_exploration_candidates
        return best_action(state.policy.module, partial(value, state), obs, num, key)

    act = {"explore": explore, **chain_modes(value, config.num_action_candidates)}
    return Agent(init=init, act=act, update=update, batches_per_update=2)


def with_uniform_actions(
    config: UniformActionsConfig, best: Float[Array, "batch act"], key, env_step
) -> tuple[Float[Array, "actions batch act"], Float[Array, " actions"]]:
    """The best action of each state and, after it, uniform ones; their relative weights."""
    shape = (config.num, *best.shape)
    others = jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
    relative = jnp.concatenate([jnp.ones(1), jnp.full(config.num, config.weight(env_step))])
    return jnp.concatenate([best[None], others]), relative


def advantage_of_best(value: Float[Array, "draws batch"]) -> Float[Array, " batch"]:
    """How much the best draw is worth beyond their mean, at least 0 whatever the mean's rounding.

    A negative weight would turn the imitation into its opposite.
    """
    return jnp.maximum(value.max(axis=0) - value.mean(axis=0), 0.0)


def best_action(policy: DdpmPolicy, value: Value, obs, num: int, key):
    """The most valued of `num` actions of the policy, for each observation."""
    actions = policy.sample(obs, key, num)
    return best_of(actions, value(obs, actions))


def _network_evaluations(settings: QvpoConfig) -> tuple[int, int]:
    chains = settings.num_exploration_candidates + settings.num_training_candidates
    regressed = 1 + settings.uniform_actions.num  # the best action and the uniform ones
    per_update = chains * settings.policy.num_denoising_steps + regressed
    return per_update, per_update


QVPO = Algorithm(
    name="qvpo",
    paper="Ding et al., NeurIPS 2024",
    url="https://arxiv.org/abs/2405.16173",
    year=2024,
    policy="denoising chain, best of k",
    critic="scalar x2, target networks",
    make=qvpo,
    config=QvpoConfig,
    network_evaluations=_network_evaluations,
    modes=("best_of_n", "stochastic", "deterministic"),
)
