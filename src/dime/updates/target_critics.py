"""The critic update of every algorithm with target networks."""

from collections.abc import Callable

import optax
from jaxtyping import Array, Float

from dime.critics.heads import Head, SoftBackup
from dime.critics.target import TargetCritics, critic_outputs
from dime.types import Metrics, Transition
from dime.updates.gradient_step import descend


def bellman_step(
    critics: TargetCritics,
    transition: Transition,
    next_action: Float[Array, "batch act"],
    backup: SoftBackup,
    head: Head,
    optimizer: optax.GradientTransformation,
) -> tuple[TargetCritics, Metrics]:
    """The critics after one step towards the slow copies' backup of `next_action`.

    The copies stay as they are.
    """
    next_outputs = critic_outputs(critics.slow, transition.next_obs, next_action)
    target = head.target(next_outputs, backup)

    def loss(online):
        outputs = critic_outputs(online, transition.obs, transition.action)
        value, metrics = head.loss(outputs, target)
        return value, metrics | {"q_mean": head.value(outputs).mean()}

    online, state, descent = descend(optimizer, loss, critics.optimizer, critics.online)
    metrics = {"critic_loss": descent.loss, "critic_gradient_norm": descent.gradient_norm}
    metrics |= head.target_metrics(next_outputs, backup)
    return TargetCritics(online, critics.slow, state), descent.told | metrics


def value_of(critics: object, head: Head) -> Callable[[Array, Array], Array]:
    """The function from observations and actions to one number from all critics."""
    return lambda obs, action: head.combined_value(critic_outputs(critics, obs, action))
