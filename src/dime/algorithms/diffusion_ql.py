"""Diffusion-QL online (Wang et al., ICLR 2023; as Ding & Jin, ICLR 2024, released it).

A denoising policy follows the critics' gradient through its whole chain. Online there is no
behaviour to clone, so the loss is the value alone; the offline form's term is an option.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dime.algorithms.algorithm import Algorithm, AlgorithmConfig
from dime.critics.critics import CriticState, follow
from dime.critics.heads import SoftBackup, smallest
from dime.critics.target import HeadedTargetCriticConfig
from dime.errors import require, require_at_least, require_unit_interval
from dime.networks.activations import mish
from dime.networks.chain_networks import Denoiser
from dime.networks.embeddings import SinusoidalFeatures, sinusoidal_frequencies
from dime.networks.initializers import uniform_fan_in
from dime.optimizers import TrainState
from dime.policies.consistency import ConsistencyPolicy
from dime.policies.ddpm import DdpmPolicy, DdpmPolicyConfig
from dime.types import Agent, EnvSpec, Metrics
from dime.updates.action_modes import chain_modes, softmax_of


@dataclass(frozen=True, kw_only=True)
class AveragedPolicyConfig(DdpmPolicyConfig):
    """The denoising chain, its network, and the averaged copy that the critics' target uses."""

    num_denoising_steps: int = 5
    """Length of the chain, at least 1 (DIME, table 2)."""
    learning_rate: float = 1e-5
    """Adam's learning rate (DIME, table 2)."""
    max_gradient_norm: float | None = 1.0
    """Clip the gradient to this global norm; None: no clipping (released code)."""
    average_decay: float = 0.995
    """Decay rate of the averaged copy, per update of it, in [0, 1)."""
    average_every: int = 5
    """Policy updates per update of the averaged copy."""
    average_from: int = 1_000
    """Updates before the averaged copy starts to move (released code)."""

    def __post_init__(self):
        super().__post_init__()
        require_unit_interval(self, "average_decay")
        require_at_least(self, 1, "average_every")
        require_at_least(self, 0, "average_from")

    def denoiser(self, spec: EnvSpec, key) -> Denoiser:
        """The network at the start of training."""

        def features(key):
            return SinusoidalFeatures(sinusoidal_frequencies(8, 7), (32, 16), key, uniform_fan_in)

        return Denoiser(spec, self.hidden, features, key, uniform_fan_in)

    def make(self, spec: EnvSpec, key) -> DdpmPolicy | ConsistencyPolicy:
        """The policy at the start of training."""
        return DdpmPolicy(self.denoiser(spec, key), self.num_denoising_steps)


@dataclass(frozen=True)
class ExplorationConfig:
    """Uniform random actions in training."""

    initial_share: float = 1.0
    """Initial probability of a uniform action, in [0, 1]."""
    final_share: float = 0.01
    """Final probability, in [0, 1]."""
    decay_env_steps: int = 100_000
    """Env steps of the linear decay between them (released code: a tenth of the run)."""

    def __post_init__(self):
        require_at_least(self, 1, "decay_env_steps")
        for name in ("initial_share", "final_share"):
            share = getattr(self, name)
            require(0.0 <= share <= 1.0, f"{name} is {share}; it must be in [0, 1].")
        require(
            self.final_share <= self.initial_share,
            f"final_share is {self.final_share}; it must be at most initial_share, "
            f"{self.initial_share}.",
        )

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
    behaviour_weight: float = 0.0
    """Weight of the loss that clones the replay's actions, at least 0 (online: 0). Offline it is 1
    over the paper's eta, which weights the value instead; the two differ where the gradient is
    clipped to `max_gradient_norm`, because the clip sees another scale."""
    num_action_candidates: int = 50
    """Actions from which one is drawn with probability proportional to exp(Q), in training and in
    the evaluation mode softmax_of_n; in best_of_n the most valued is taken."""

    def __post_init__(self):
        super().__post_init__()
        require_at_least(self, 0.0, "behaviour_weight")
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
    head = config.critic.make_head(combine=smallest, weight=1.0)
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
        state = state._replace(critics=new)
        state, policy_metrics = update_policy(state, transition, policy_key)
        state = average(state, counters.update)
        state = state._replace(critics=critics.follow(state.critics))
        return state, metrics | policy_metrics

    def update_policy(state: DiffusionQlState, transition, key):
        sample_key, coin_key, behaviour_key = jax.random.split(key, 3)
        ahead = jax.random.randint(coin_key, (), 0, 2)  # which critic is followed

        def loss(policy: Any):
            action = policy.sample(transition.obs, sample_key)
            q = head.value(state.critics.outputs(transition.obs, action))
            scale = jax.lax.stop_gradient(jnp.abs(q[1 - ahead]).mean())
            loss = -q[ahead].mean() / scale
            if config.behaviour_weight == 0.0:
                return loss, None
            cloning = policy.behaviour_loss(
                state.averaged_policy, transition.obs, transition.action, behaviour_key
            )
            return loss + config.behaviour_weight * cloning, None

        policy, descent = state.policy.descend(policy_optimizer, loss)
        metrics: Metrics = {
            "policy_loss": descent.loss,
            "policy_gradient_norm": descent.gradient_norm,
        }
        return state._replace(policy=policy), metrics

    def average(state: DiffusionQlState, update) -> DiffusionQlState:
        averaged = jax.lax.cond(
            (update >= config.policy.average_from) & (update % config.policy.average_every == 0),
            lambda: follow(
                state.averaged_policy, state.policy.module, 1.0 - config.policy.average_decay
            ),
            lambda: state.averaged_policy,
        )
        return state._replace(averaged_policy=averaged)

    def value(state: DiffusionQlState, obs, action):
        return critics.slow_value(state.critics, obs, action)

    def softmax_of_n(state: DiffusionQlState, obs, key, counters):
        sample_key, choice_key = jax.random.split(key)
        actions = state.policy.module.sample(obs, sample_key, config.num_action_candidates)
        return softmax_of(actions, value(state, obs, actions), choice_key)

    def explore(state: DiffusionQlState, obs, key, counters):
        act_key, coin_key, uniform_key = jax.random.split(key, 3)
        action = softmax_of_n(state, obs, act_key, counters)
        others = jax.random.uniform(uniform_key, action.shape, minval=-1.0, maxval=1.0)
        share = config.exploration.share(counters.env_step)
        is_uniform = jax.random.bernoulli(coin_key, share, action.shape[:-1])
        return jnp.where(is_uniform[..., None], others, action)

    modes = chain_modes(value, config.num_action_candidates)
    act = {"explore": explore, "softmax_of_n": softmax_of_n, **modes}
    return Agent(init=init, act=act, update=update)


def network_evaluations(settings: DiffusionQlConfig) -> tuple[int, int]:
    """Of an update, see `Algorithm`."""
    per_update = 2 * settings.policy.num_denoising_steps
    return per_update, per_update


DIFFUSION_QL = Algorithm(
    name="diffusion-ql",
    paper="Wang et al., ICLR 2023",
    year=2023,
    policy="denoising chain",
    critic="scalar x2, target networks",
    make=diffusion_ql,
    config=DiffusionQlConfig,
    network_evaluations=network_evaluations,
    modes=("softmax_of_n", "stochastic", "deterministic", "best_of_n"),
)
