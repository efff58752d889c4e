"""The losses of maximum-entropy actor-critic methods, with the entropy or a bound on it."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dime.critics.heads import Head, SoftBackup
from dime.critics.joint import JointCritics, evaluate_critics, joint_outputs
from dime.networks.batch_renorm_mlp import BatchRenormMlp, Stats
from dime.types import Metrics, Transition
from dime.updates.gradient_step import descend


def joint_critic_loss(
    critics: BatchRenormMlp,
    stats: Stats,
    transition: Transition,
    next_action: Float[Array, "batch act"],
    backup: SoftBackup,
    head: Head,
) -> tuple[Float[Array, ""], tuple[Stats, Metrics]]:
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
    metrics |= head.target_metrics(jax.lax.stop_gradient(next_outputs), backup)
    return loss, (stats, metrics | {"critic_loss": loss, "q_mean": q_mean})


def joint_critic_step(
    critics: JointCritics,
    transition: Transition,
    next_action: Float[Array, "batch act"],
    backup: SoftBackup,
    head: Head,
    optimizer: optax.GradientTransformation,
) -> tuple[JointCritics, Metrics]:
    """The critics after one step on `joint_critic_loss`."""

    def loss(online: BatchRenormMlp):
        return joint_critic_loss(online, critics.stats, transition, next_action, backup, head)

    online, state, descent = descend(optimizer, loss, critics.optimizer, critics.online)
    stats, metrics = descent.told
    metrics |= {"critic_gradient_norm": descent.gradient_norm}
    return JointCritics(online, stats, state), metrics


def combined_value(
    critics: BatchRenormMlp,
    stats: Stats,
    obs: Float[Array, "*batch obs"],
    action: Float[Array, "*batch act"],
    head: Head,
) -> Float[Array, "*batch"]:
    """Q(s, a) in evaluation mode, one number from all critics, in units of return."""
    pairs = jnp.concatenate([obs, action], axis=-1)
    return head.combined_value(evaluate_critics(critics, stats, pairs))


def max_entropy_policy_loss(
    log_prob: Float[Array, "*batch"],
    value: Float[Array, "*batch"],
    temperature: Float[Array, ""],
) -> Float[Array, ""]:
    """`mean[temperature * log_prob - Q]` (SAC; DIME eq. 27)."""
    return (temperature * log_prob - value).mean()


def log_variance_policy_loss(
    log_prob: Float[Array, "chains batch"],
    value: Float[Array, "chains batch"],
    temperature: Float[Array, ""],
) -> Float[Array, ""]:
    """Half the variance of `log_prob - Q / temperature` over the chains of each state.

    0 where the policy is exp(Q / temperature) up to a factor per state (Richter et al. 2020; DIME
    section 6). Over the chains of one state and not over states, which have factors of their own.
    The paths must carry no gradient; the value and the temperature are held fixed here.
    """
    log_target = jax.lax.stop_gradient(value / temperature)
    return 0.5 * (log_prob - log_target).var(axis=0).mean()
