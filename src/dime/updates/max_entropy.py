"""The losses of maximum-entropy actor-critic methods, with the entropy or a bound on it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dime.critics.ensemble import Critic, CriticStats, evaluate_critics, joint_outputs
from dime.critics.heads import Head, SoftBackup
from dime.types import Metrics, Transition


def joint_critic_loss(
    critics: Critic,
    stats: CriticStats,
    transition: Transition,
    next_action: Float[Array, "batch act"],
    backup: SoftBackup,
    head: Head,
) -> tuple[Float[Array, ""], tuple[CriticStats, Metrics]]:
    """Critic loss without a target network; and the statistics after the pass (DIME eqs. 21, 24).

    Current and next pairs share one training pass. Only the finished target is held fixed:
    gradients do flow through the batch statistics, to which the next pairs contribute.
    """
    pairs = jnp.concatenate([transition.obs, transition.action], axis=-1)
    next_pairs = jnp.concatenate([transition.next_obs, next_action], axis=-1)
    outputs, next_outputs, stats = joint_outputs(critics, stats, pairs, next_pairs)
    target = jax.lax.stop_gradient(head.target(next_outputs, backup))
    loss, metrics = head.loss(outputs, target)
    q_mean = head.value(jax.lax.stop_gradient(outputs)).mean()
    return loss, (stats, metrics | {"critic_loss": loss, "q_mean": q_mean})


def mean_value(
    critics: Critic,
    stats: CriticStats,
    obs: Float[Array, "*batch obs"],
    action: Float[Array, "*batch act"],
    head: Head,
) -> Float[Array, "*batch"]:
    """Q(s, a) in evaluation mode, the mean over the critics, in units of return."""
    pairs = jnp.concatenate([obs, action], axis=-1)
    return head.value(evaluate_critics(critics, stats, pairs)).mean(axis=0)


def max_entropy_policy_loss(
    log_prob: Float[Array, " batch"],
    value: Float[Array, " batch"],
    temperature: Float[Array, ""],
) -> Float[Array, ""]:
    """`mean[temperature * log_prob - Q]` (SAC; DIME eq. 27)."""
    return (temperature * log_prob - value).mean()
