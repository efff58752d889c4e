"""QSM: Q-score matching (Psenka et al., ICML 2024).

The score of a denoising policy is matched to the critics' gradient in the action, without any
gradient through the chain.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dime.algorithms.algorithm import Algorithm, AlgorithmConfig
from dime.critics.critics import CriticState, TargetCriticConfig
from dime.critics.heads import ScalarHead, SoftBackup, smallest
from dime.diffusion.ddpm import ancestral_step, variance_preserving_betas
from dime.errors import Count, NonNegative, Positive
from dime.networks.chain_networks import Denoiser, LearntFourierFeatures
from dime.networks.layers import xavier
from dime.optimizers import TrainState
from dime.policies.ddpm import DdpmPolicy, DdpmPolicyConfig
from dime.types import Agent, EnvSpec, Metrics
from dime.updates.action_modes import chain_modes


@dataclass(frozen=True, kw_only=True)
class QsmPolicyConfig(DdpmPolicyConfig):
    """The denoising chain, its network and its learning-rate schedule."""

    num_denoising_steps: Count = 15
    """Length of the chain, at least 1 (DIME: 15, appendix E 10 or 15; released code: 5)."""
    decay_updates: Count = 2_000_000
    """Policy updates over which the learning rate decays to 0, along a cosine (released code)."""


@dataclass(frozen=True)
class QsmConfig(AlgorithmConfig):
    """Everything that QSM's mathematics depends on; the defaults are DIME's table 2."""

    policy: QsmPolicyConfig = field(default_factory=QsmPolicyConfig)
    critic: TargetCriticConfig = field(default_factory=lambda: TargetCriticConfig(hidden_dim=2048))
    alignment: Positive = 50.0
    """Factor of the critics' gradient, where others divide by a temperature (M; DIME, appendix E:
    50, on most of DMC 100 to 200, on Ant 1)."""
    exploration_std: NonNegative = 0.1
    """Standard deviation of the noise on actions, in training and in the critics' target."""


class QsmState(NamedTuple):
    """What training changes."""

    policy: TrainState
    critics: CriticState


def qsm(config: QsmConfig, spec: EnvSpec) -> Agent:
    """The algorithm for an environment of the given sizes."""
    critics = config.critic.make(
        spec, ScalarHead(combine=smallest, weight=1.0), jax.nn.relu, xavier
    )
    policy_optimizer = config.policy.make_optimizer(
        optax.cosine_decay_schedule(config.policy.learning_rate, config.policy.decay_updates)
    )

    def init(key) -> QsmState:
        policy_key, critic_key = jax.random.split(key)
        policy = initial_policy(config.policy, spec, policy_key)
        return QsmState(
            policy=TrainState.start(policy, policy_optimizer), critics=critics.start(critic_key)
        )

    def update(state: QsmState, batch, key, counters) -> tuple[QsmState, Metrics]:
        critic_key, policy_key = jax.random.split(key)
        transition = batch.transition
        next_action = explore(state, transition.next_obs, critic_key, counters)
        backup = SoftBackup.of(transition, config.discount)
        new, metrics = critics.step(state.critics, transition, next_action, backup)
        state = state._replace(critics=critics.follow(new))
        state, policy_metrics = match_score(state, transition, policy_key)
        return state, metrics | policy_metrics

    def match_score(state: QsmState, transition, key) -> tuple[QsmState, Metrics]:
        noisy, _, index = state.policy.module.noise(transition.action, key)

        def mean_value(action):  # the mean of the critics, not the smallest
            outputs = state.critics.outputs(transition.obs, action)
            return critics.head.value(outputs).mean(axis=0).sum()

        # The same field at every step: no factor sqrt(1 - alpha_bar) (released code).
        target = -config.alignment * jax.grad(mean_value)(noisy)

        def loss(policy: DdpmPolicy):
            predicted = policy.denoiser(noisy, transition.obs, index)
            return ((predicted - target) ** 2).mean(), None

        policy, descent = state.policy.descend(policy_optimizer, loss)
        return state._replace(policy=policy), descent.metrics()

    def explore(state: QsmState, obs, key, counters):
        chain_key, noise_key = jax.random.split(key)
        action = state.policy.module.sample(obs, chain_key)
        noise = config.exploration_std * jax.random.normal(noise_key, action.shape)
        return jnp.clip(action + noise, -1.0, 1.0)

    def value(state: QsmState, obs, action):
        return critics.value(state.critics, obs, action)

    act = {"explore": explore, **chain_modes(value, config.num_action_candidates)}
    return Agent(init=init, act=act, update=update)


def initial_policy(config: QsmPolicyConfig, spec: EnvSpec, key) -> DdpmPolicy:
    """The policy at the start of training."""
    features = partial(LearntFourierFeatures, 64, (128, 128), start=xavier)
    denoiser = Denoiser(spec, config.hidden, features, key, xavier)
    steps = config.num_denoising_steps
    return DdpmPolicy(denoiser, steps, variance_preserving_betas, ancestral_step)


def _network_evaluations(settings: QsmConfig) -> tuple[int, int]:
    per_update = settings.policy.num_denoising_steps + 1  # the next action's; the regression
    return per_update, per_update


QSM = Algorithm(
    name="qsm",
    paper="Psenka et al., ICML 2024",
    url="https://arxiv.org/abs/2312.11752",
    year=2024,
    policy="denoising chain",
    critic="scalar x2, target networks",
    make=qsm,
    config=QsmConfig,
    network_evaluations=_network_evaluations,
    modes=("stochastic", "deterministic", "best_of_n"),
)
