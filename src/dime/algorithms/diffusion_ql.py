"""Diffusion-QL online (Wang et al., ICLR 2023; as Ding & Jin, ICLR 2024, released it).

A denoising policy follows the critics' gradient through its whole chain. Online there is no
behaviour to clone, so the loss is the value alone; the offline form's term is an option.
Consistency-AC (Ding & Jin, ICLR 2024) is the same with a consistency model as its policy.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from dime.algorithms.algorithm import Algorithm, AlgorithmConfig
from dime.critics.critics import CriticState, HeadedTargetCriticConfig, follow
from dime.critics.heads import SoftBackup, smallest
from dime.errors import (
    Checked,
    Count,
    Fraction,
    NonNegative,
    Positive,
    Share,
    Whole,
    at_least,
    require,
)
from dime.networks.chain_networks import Denoiser, SinusoidalFeatures, sinusoidal_frequencies
from dime.networks.layers import mish, uniform_fan_in
from dime.optimizers import TrainState
from dime.policies.consistency import ConsistencyPolicy
from dime.policies.ddpm import DdpmPolicy, DdpmPolicyConfig
from dime.types import Agent, EnvSpec
from dime.updates.action_modes import chain_modes, softmax_of


@dataclass(frozen=True, kw_only=True)
class AveragedPolicyConfig(DdpmPolicyConfig):
    """The denoising chain, its network, and the averaged copy that the critics' target uses."""

    num_denoising_steps: Count = 5
    """Length of the chain, at least 1 (DIME, table 2)."""
    learning_rate: Positive = 1e-5
    """Adam's learning rate (DIME, table 2)."""
    max_gradient_norm: float | None = 1.0
    """Clip the gradient to this global norm; None: no clipping (released code)."""
    average_decay: Fraction = 0.995
    """Decay rate of the averaged copy, per update of it, in [0, 1)."""
    average_every: Count = 5
    """Policy updates per update of the averaged copy."""
    average_from: Whole = 1_000
    """Updates before the averaged copy starts to move (released code)."""

    def denoiser(self, spec: EnvSpec, key) -> Denoiser:
        """The network at the start of training."""
        frequencies = sinusoidal_frequencies(8, 7)
        features = partial(SinusoidalFeatures, frequencies, (32, 16), start=uniform_fan_in)
        return Denoiser(spec, self.hidden, features, key, uniform_fan_in)

    def make(self, spec: EnvSpec, key) -> DdpmPolicy | ConsistencyPolicy:
        """The policy at the start of training."""
        return DdpmPolicy(self.denoiser(spec, key), self.num_denoising_steps)

    def average(self, averaged: Any, policy: Any, update: Int[Array, ""]) -> Any:
        """The averaged copy after this update of the policy."""
        return jax.lax.cond(
            (update >= self.average_from) & (update % self.average_every == 0),
            lambda: follow(averaged, policy, 1.0 - self.average_decay),
            lambda: averaged,
        )


@dataclass(frozen=True)
class ExplorationConfig(Checked):
    """Uniform random actions in training."""

    initial_share: Share = 1.0
    """Initial probability of a uniform action, in [0, 1]."""
    final_share: Share = 0.01
    """Final probability, in [0, 1]."""
    decay_env_steps: Count = 100_000
    """Env steps of the linear decay between them (released code: a tenth of the run)."""

    def __post_init__(self):
        super().__post_init__()
        require(
            self.final_share <= self.initial_share,
            f"final_share is {self.final_share}; it must be at most initial_share, "
            f"{self.initial_share}.",
        )

    def mix(self, action, env_step, keys):
        """The actions, or in their place uniform ones, each with this env step's probability."""
        coin_key, uniform_key = keys
        others = jax.random.uniform(uniform_key, action.shape, minval=-1.0, maxval=1.0)
        is_uniform = jax.random.bernoulli(coin_key, self.share(env_step), action.shape[:-1])
        return jnp.where(is_uniform[..., None], others, action)

    def share(self, env_step):
        """How often an action is uniform at this env step."""
        past = jnp.clip(env_step / self.decay_env_steps, 0.0, 1.0)
        return self.initial_share + past * (self.final_share - self.initial_share)


@dataclass(frozen=True)
class DiffusionQlConfig(AlgorithmConfig):
    """Everything that Diffusion-QL's mathematics depends on; the defaults are DIME's table 2."""

    policy: AveragedPolicyConfig = field(default_factory=AveragedPolicyConfig)
    critic: HeadedTargetCriticConfig = field(
        default_factory=lambda: HeadedTargetCriticConfig(num_hidden_layers=3, max_gradient_norm=1.0)
    )
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    behaviour_weight: NonNegative = 0.0
    """Weight of the loss that clones the replay's actions, at least 0 (online: 0). Offline it is 1
    over the paper's eta, which weights the value instead; the two differ where the gradient is
    clipped to `max_gradient_norm`, because the clip sees another scale."""
    num_action_candidates: Count = 50
    """Actions from which one is drawn with probability proportional to exp(Q), in training and in
    the evaluation mode softmax_of_n; in best_of_n the most valued is taken."""

    def __post_init__(self):
        super().__post_init__()
        num_critics = self.critic.num_critics
        require(
            num_critics == 2,
            f"num_critics is {num_critics}; it must be 2: the policy follows one and is scaled by "
            "the other.",
        )


class DiffusionQlState(NamedTuple):
    """What training changes."""

    policy: TrainState
    averaged_policy: DdpmPolicy | ConsistencyPolicy
    critics: CriticState


def diffusion_ql(config: DiffusionQlConfig, spec: EnvSpec) -> Agent:
    """The algorithm for an environment of the given sizes."""
    head = config.critic.make_head(combine=smallest, weight=1.0)  # ignored if categorical
    critics = config.critic.make(spec, head, mish, uniform_fan_in)
    policy_optimizer = config.policy.make_optimizer()

    def init(key) -> DiffusionQlState:
        policy_key, critic_key = jax.random.split(key)
        policy = config.policy.make(spec, policy_key)
        return DiffusionQlState(
            policy=TrainState.start(policy, policy_optimizer),
            averaged_policy=jax.tree.map(jnp.copy, policy),
            critics=critics.start(critic_key),
        )

    def update(state: DiffusionQlState, batch, key, counters):
        critic_key, policy_key = jax.random.split(key)
        transition = batch.transition
        next_action = state.averaged_policy.sample(transition.next_obs, critic_key)
        backup = SoftBackup.of(transition, config.discount)
        new, metrics = critics.step(state.critics, transition, next_action, backup)
        state, policy_metrics = update_policy(state._replace(critics=new), transition, policy_key)
        averaged = config.policy.average(
            state.averaged_policy, state.policy.module, counters.update
        )
        state = state._replace(averaged_policy=averaged, critics=critics.follow(state.critics))
        return state, metrics | policy_metrics

    def update_policy(state: DiffusionQlState, transition, key):
        sample_key, coin_key, behaviour_key = jax.random.split(key, 3)
        ahead = jax.random.randint(coin_key, (), 0, 2)  # which critic is followed

        def loss(policy: Any):
            action = policy.sample(transition.obs, sample_key)
            q = head.value(state.critics.outputs(transition.obs, action))
            loss = -q[ahead].mean() / jax.lax.stop_gradient(jnp.abs(q[1 - ahead]).mean())
            if config.behaviour_weight > 0.0:
                loss += config.behaviour_weight * policy.behaviour_loss(
                    state.averaged_policy, transition.obs, transition.action, behaviour_key
                )
            return loss, None

        policy, descent = state.policy.descend(policy_optimizer, loss)
        return state._replace(policy=policy), descent.metrics()

    def value(state: DiffusionQlState, obs, action):
        return critics.slow_value(state.critics, obs, action)

    def softmax_of_n(state: DiffusionQlState, obs, key, counters):
        sample_key, choice_key = jax.random.split(key)
        actions = state.policy.module.sample(obs, sample_key, config.num_action_candidates)
        return softmax_of(actions, value(state, obs, actions), choice_key)

    def explore(state: DiffusionQlState, obs, key, counters):
        act_key, *uniform_keys = jax.random.split(key, 3)
        action = softmax_of_n(state, obs, act_key, counters)
        return config.exploration.mix(action, counters.env_step, uniform_keys)

    modes = chain_modes(value, config.num_action_candidates) | {"softmax_of_n": softmax_of_n}
    return Agent(init=init, act={"explore": explore, **modes}, update=update)


def _network_evaluations(settings: DiffusionQlConfig) -> tuple[int, int]:
    per_update = 2 * settings.policy.num_denoising_steps
    return per_update, per_update


DIFFUSION_QL = Algorithm(
    name="diffusion-ql",
    paper="Wang et al., ICLR 2023",
    url="https://arxiv.org/abs/2208.06193",
    year=2023,
    policy="denoising chain",
    critic="scalar x2, target networks",
    make=diffusion_ql,
    config=DiffusionQlConfig,
    network_evaluations=_network_evaluations,
    modes=("softmax_of_n", "stochastic", "deterministic", "best_of_n"),
)


@dataclass(frozen=True, kw_only=True)
class ConsistencyPolicyConfig(AveragedPolicyConfig):
    """The consistency model, its network, and the averaged copy."""

    num_denoising_steps: Count = 5
    """Network evaluations per action, at least 1 (released code)."""
    num_noise_levels: Annotated[int, at_least(2)] = 40
    """Noise levels of the loss that clones behaviour, at least 2 (our choice; the released offline
    code lets it rise from 2 to 150 again and again)."""

    def make(self, spec: EnvSpec, key) -> ConsistencyPolicy:
        """The policy at the start of training."""
        denoiser = self.denoiser(spec, key)
        return ConsistencyPolicy(denoiser, self.num_denoising_steps, self.num_noise_levels)


@dataclass(frozen=True)
class ConsistencyAcConfig(DiffusionQlConfig):
    """Everything that Consistency-AC depends on; the defaults are DIME's table 2."""

    policy: ConsistencyPolicyConfig = field(default_factory=ConsistencyPolicyConfig)


CONSISTENCY_AC = replace(
    DIFFUSION_QL,
    name="consistency-ac",
    paper="Ding & Jin, ICLR 2024",
    url="https://arxiv.org/abs/2309.16984",
    year=2024,
    policy="consistency model",
    config=ConsistencyAcConfig,
)
