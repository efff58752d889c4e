"""DIPO: diffusion policy optimisation (Yang et al., 2023).

Remembered actions climb the critics' gradient; a denoising policy learns to make such actions.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from dime.algorithms.algorithm import Algorithm, AlgorithmConfig
from dime.critics.critics import Critics, CriticState, TargetCriticConfig, follow
from dime.critics.heads import ScalarHead, SoftBackup, smallest
from dime.diffusion.ddpm import cosine_betas
from dime.errors import Checked, Count, Positive, Rate
from dime.networks.chain_networks import Denoiser, SinusoidalFeatures, sinusoidal_frequencies
from dime.networks.layers import mish, normal_with
from dime.optimizers import TrainState, gradient_step
from dime.policies.ddpm import DdpmPolicy, DdpmPolicyConfig
from dime.types import Agent, Batch, EnvSpec, Metrics
from dime.updates.action_modes import chain_modes

# The released code redraws entries beyond 2 standard deviations, but into a tensor that it drops.
_START = normal_with(0.5)


@dataclass(frozen=True, kw_only=True)
class SlowDdpmPolicyConfig(DdpmPolicyConfig):
    """The denoising chain, its network, and the slow copy that the critics' target uses."""

    num_denoising_steps: Count = 100
    """Length of the chain, at least 1 (DIME, table 2)."""
    adam_epsilon: Positive = 1e-5
    """Added to the root of Adam's second moment (released code)."""
    max_gradient_norm: float | None = 2.0
    """Clip the gradient to this global norm; None: no clipping (released code)."""
    target_rate: Rate = 0.005
    """Polyak rate of the slow copy, per update of it, in (0, 1]."""


@dataclass(frozen=True)
class ImprovementConfig(Checked):
    """How stored actions are improved along the critics' gradient."""

    num_steps: Count = 20
    """Gradient steps per minibatch (K; released code)."""
    learning_rate: Positive = 0.03
    """Adam's learning rate for these steps."""
    max_gradient_norm_per_dim: Positive = 0.1
    """Norm to which the minibatch's gradient is clipped, per action dimension (rho)."""
    write_back: bool = True
    """Store the improved actions, as the paper says; the released code never does."""


@dataclass(frozen=True)
class DipoConfig(AlgorithmConfig):
    """Everything that DIPO's mathematics depends on; the defaults are DIME's table 2."""

    policy: SlowDdpmPolicyConfig = field(default_factory=SlowDdpmPolicyConfig)
    critic: TargetCriticConfig = field(
        default_factory=lambda: TargetCriticConfig(
            num_hidden_layers=3, adam_epsilon=1e-5, max_gradient_norm=2.0
        )
    )
    improvement: ImprovementConfig = field(default_factory=ImprovementConfig)
    target_policy_delay: Count = 1
    """Policy updates per update of the slow copy (HalfCheetah: 2)."""


_NONE = -(2**31)  # the number of no transition, also of none in a row still to be filled


class ActionMemory(eqx.Module):
    """Actions by row of the replay, and which transition each was remembered for.

    Transition number t (0, 1, 2, ...) is in row t % capacity until a newer one takes its
    place; what was remembered for the older one counts no longer then.
    """

    actions: Float[Array, "rows act"]
    numbers: Int[Array, " rows"]

    @classmethod
    def start(cls, capacity: int, action_dim: int) -> "ActionMemory":
        """Nothing is remembered."""
        return cls(jnp.zeros((capacity, action_dim)), jnp.full(capacity, _NONE, jnp.int32))

    def recall(self, batch: Batch, env_step: Int[Array, ""]) -> Float[Array, "batch act"]:
        """What is remembered for each row's transition, else the action taken."""
        fresh = self.numbers[batch.index] == self._number(batch.index, env_step)
        return jnp.where(fresh[:, None], self.actions[batch.index], batch.transition.action)

    def remember(
        self, batch: Batch, env_step: Int[Array, ""], action: Float[Array, "batch act"]
    ) -> "ActionMemory":
        """With these actions for the rows' transitions."""
        return ActionMemory(
            self.actions.at[batch.index].set(action),
            self.numbers.at[batch.index].set(self._number(batch.index, env_step)),
        )

    def _number(self, row: Int[Array, " batch"], env_step: Int[Array, ""]):
        """The newest transition in a row after `env_step` env steps."""
        newest = env_step - 1
        return newest - (newest - row) % self.actions.shape[0]


class DipoState(NamedTuple):
    """What training changes."""

    policy: TrainState
    slow_policy: DdpmPolicy
    critics: CriticState
    memory: ActionMemory


def dipo_policy(config: SlowDdpmPolicyConfig, spec: EnvSpec, key) -> DdpmPolicy:
    """The policy of DIPO and of QVPO, which builds on it, at the start of training."""
    frequencies = sinusoidal_frequencies(16, 15)
    features = partial(SinusoidalFeatures, frequencies, (256, 32), start=_START)
    denoiser = Denoiser(spec, config.hidden, features, key, _START)
    return DdpmPolicy(denoiser, config.num_denoising_steps, cosine_betas)


def dipo_critics(config: TargetCriticConfig, spec: EnvSpec) -> Critics:
    """The critics of both."""
    return config.make(spec, ScalarHead(combine=smallest, weight=1.0), mish, _START)


def dipo(config: DipoConfig, spec: EnvSpec) -> Agent:
    """The algorithm for an environment of the given sizes."""
    critics = dipo_critics(config.critic, spec)
    policy_optimizer = config.policy.make_optimizer()
    num_remembered = spec.replay_capacity if config.improvement.write_back else 0

    def init(key) -> DipoState:
        policy_key, critic_key = jax.random.split(key)
        policy = dipo_policy(config.policy, spec, policy_key)
        return DipoState(
            policy=TrainState.start(policy, policy_optimizer),
            slow_policy=jax.tree.map(jnp.copy, policy),
            critics=critics.start(critic_key),
            memory=ActionMemory.start(num_remembered, spec.action_dim),
        )

    def update(state: DipoState, batch, key, counters) -> tuple[DipoState, Metrics]:
        critic_key, policy_key = jax.random.split(key)
        for_critics, for_policy = batch.halves()
        transition = for_critics.transition
        next_action = state.slow_policy.sample(transition.next_obs, critic_key)
        backup = SoftBackup.of(transition, config.discount)
        new, metrics = critics.step(state.critics, transition, next_action, backup)
        state = state._replace(critics=new)
        obs = for_policy.transition.obs
        value_of = partial(critics.value, state.critics, obs)
        memory, action = improve(
            config.improvement, state.memory, value_of, for_policy, counters.env_step
        )
        state, policy_metrics = imitate(state._replace(memory=memory), obs, action, policy_key)
        slow_policy = jax.lax.cond(
            counters.update % config.target_policy_delay == 0,
            lambda: follow(state.slow_policy, state.policy.module, config.policy.target_rate),
            lambda: state.slow_policy,
        )
        state = state._replace(slow_policy=slow_policy, critics=critics.follow(state.critics))
        return state, metrics | policy_metrics

    def imitate(state: DipoState, obs, action, key) -> tuple[DipoState, Metrics]:
        def loss(policy: DdpmPolicy):
            return policy.noise_errors(obs, action, key).mean(), None

        policy, descent = state.policy.descend(policy_optimizer, loss)
        return state._replace(policy=policy), descent.metrics()

    def value(state: DipoState, obs, action):
        return critics.value(state.critics, obs, action)

    act = {
        "explore": lambda state, obs, key, counters: state.policy.module.sample(obs, key),
        "noise_free": lambda state, obs, key, counters: state.policy.module.noise_free(obs, key),
        **chain_modes(value, config.num_action_candidates),
    }
    return Agent(init=init, act=act, update=update, batches_per_update=2)


def improve(
    config: ImprovementConfig,
    memory: ActionMemory,
    value_of: Callable[[Array], Array],
    batch: Batch,
    env_step: Int[Array, ""],
) -> tuple[ActionMemory, Float[Array, "batch act"]]:
    """Remembered actions climb the critics, and are remembered again."""
    if not config.write_back:
        return memory, improved_actions(config, value_of, batch.transition.action)
    action = improved_actions(config, value_of, memory.recall(batch, env_step))
    return memory.remember(batch, env_step, action), action


def improved_actions(
    config: ImprovementConfig, value: Any, action: Float[Array, "batch act"]
) -> Float[Array, "batch act"]:
    """The actions after Adam steps up `value`, kept in the box after each."""
    max_norm = config.max_gradient_norm_per_dim * action.shape[-1]
    optimizer = optax.chain(
        optax.clip_by_global_norm(max_norm), optax.adam(config.learning_rate, eps=1e-5)
    )
    descent = jax.grad(lambda action: -value(action).sum())

    def climb(carry, _):
        action, state = carry
        action, state, _ = gradient_step(optimizer, descent(action), state, action)
        return (jnp.clip(action, -1.0, 1.0), state), None

    (action, _), _ = jax.lax.scan(climb, (action, optimizer.init(action)), None, config.num_steps)
    return action


def _network_evaluations(settings: DipoConfig) -> tuple[int, int]:
    per_update = settings.policy.num_denoising_steps + 1  # the next action's; the regression
    return per_update, per_update


DIPO = Algorithm(
    name="dipo",
    paper="Yang et al., 2023",
    url="https://arxiv.org/abs/2305.13122",
    year=2023,
    policy="denoising chain",
    critic="scalar x2, target networks",
    make=dipo,
    config=DipoConfig,
    network_evaluations=_network_evaluations,
    modes=("noise_free", "stochastic", "deterministic", "best_of_n"),
)
