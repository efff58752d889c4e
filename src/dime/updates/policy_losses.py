"""What makes a policy proportional to exp(Q / temperature)."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from dime.types import Sample

Value: TypeAlias = Callable[[Array, Array], Array]
"""(obs, action) to one number from all critics."""
Objective: TypeAlias = Callable[..., tuple[Array, Sample]]
"""(policy, obs, key, value, temperature) to the loss and the samples that it was made from."""


def reverse_kl(
    policy: Any,
    obs: Float[Array, "batch obs"],
    key: Key[Array, ""],
    value: Value,
    temperature: Float[Array, ""],
) -> tuple[Float[Array, ""], Sample]:
    """SAC's objective, through the sample (a whole chain in DIME's eq. 27)."""
    sample = policy.sample(obs, key)
    q = value(obs, sample.action)
    return max_entropy_policy_loss(sample.log_prob, q, temperature), sample


def log_variance_over(num_chains: int) -> Objective:
    """The objective over several chains of each state (DIME section 6)."""

    def log_variance(policy, obs, key, value, temperature):
        repeated = jnp.broadcast_to(obs, (num_chains, *obs.shape))
        sample = policy.sample_detached(repeated, key)
        q = value(repeated, sample.action)
        return log_variance_policy_loss(sample.log_prob, q, temperature), sample

    return log_variance


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
