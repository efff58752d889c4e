"""The nouns that every layer shares, and the glossary of shape letters.

Shapes are written in the signatures (jaxtyping). The letters:

    *batch   any leading axes, also none        obs, act  dimensions of observations, actions
    *draws   *batch, perhaps after an axis      steps     denoising steps, N in the papers
             of draws per observation           critics   num_critics of an ensemble
    candidates  actions to choose among         atoms     support of a categorical critic
    seeds, envs  of a run, of each seed         rows      of a replay or memory
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

AlgorithmState: TypeAlias = Any
"""One pytree of arrays: parameters, optimiser states, running statistics, temperature."""

Metrics: TypeAlias = dict[str, Float[Array, "..."]]
"""What an update measured: scalars and a few vectors, on the device until the loop fetches them."""


class Transition(eqx.Module):
    """One step of an environment, or a batch of them.

    `action` lies in [-1, 1]; `next_obs` is the true successor, also at a time limit; `terminated`
    is the end of the MDP, a time limit is not.
    """

    obs: Float[Array, "*batch obs"]
    action: Float[Array, "*batch act"]
    reward: Float[Array, "*batch"]
    next_obs: Float[Array, "*batch obs"]
    terminated: Bool[Array, "*batch"]


class Batch(eqx.Module):
    """A minibatch and where in the replay each of its rows is."""

    transition: Transition
    index: Int[Array, " batch"]

    def halves(self) -> tuple["Batch", "Batch"]:
        """The first and the second half of the rows, which were drawn independently."""
        middle = self.index.shape[0] // 2
        first = jax.tree.map(lambda leaf: leaf[:middle], self)
        return first, jax.tree.map(lambda leaf: leaf[middle:], self)


class Counters(NamedTuple):
    """How far a run is: environment steps taken, and critic updates completed.

    All seeds share them, so they carry no seed axis and a `lax.cond` on them stays a branch.
    """

    env_step: Int[Array, ""]
    update: Int[Array, ""]


class Sample(NamedTuple):
    """What a policy returns for a batch of observations.

    `log_prob` is exact, or a chain's one-sample value whose mean is at least E[log pi(a|s)];
    `log_prior` is the prior draw's share of it (0 where there is no prior draw). Both in nats.
    """

    action: Float[Array, "*batch act"]
    log_prob: Float[Array, "*batch"]
    log_prior: Float[Array, "*batch"]

    @property
    def running_cost(self) -> Float[Array, "*batch"]:
        """The part of `log_prob` that the policy can change, in nats."""
        return self.log_prob - self.log_prior


class EnvSpec(NamedTuple):
    """The sizes that an algorithm needs to know about an environment and its replay."""

    obs_dim: int
    action_dim: int
    replay_capacity: int = 1_000_000


Act: TypeAlias = Callable[
    [AlgorithmState, Float[Array, "*batch obs"], Key[Array, ""], Counters],
    Float[Array, "*batch act"],
]


class Delayed(NamedTuple):
    """A policy update that only some updates make, and its scalar metrics: 0 in the others.

    `is_due(number)` says whether the update of this number (0, 1, 2, ...) makes it.
    """

    metrics: tuple[str, ...]
    is_due: Callable[[Any], Any]

    def if_due(
        self,
        number: Int[Array, ""],
        make: Callable[[AlgorithmState], tuple[AlgorithmState, Metrics]],
        state: AlgorithmState,
    ) -> tuple[AlgorithmState, Metrics]:
        """`make(state)` if it is due; otherwise the state as it is."""
        zeros = dict.fromkeys(self.metrics, jnp.zeros(()))
        return jax.lax.cond(self.is_due(number), make, lambda state: (state, zeros), state)


class Agent(NamedTuple):
    """An algorithm: pure functions over one state pytree.

    - `init(key) -> state`
    - `act[mode](state, obs, key, counters) -> action`; "explore" is the training mode, the
      others are evaluation modes ("stochastic", "deterministic", "best_of_n", ...).
    - `update(state, batch, key, counters) -> (state, metrics)`; the batch has the rows of
      `batches_per_update` minibatches, all drawn independently. Of the metrics that `delayed`
      names, the loop records those of the last update that made them.
    """

    init: Callable[[Key[Array, ""]], AlgorithmState]
    act: Mapping[str, Act]
    update: Callable[
        [AlgorithmState, Batch, Key[Array, ""], Counters], tuple[AlgorithmState, Metrics]
    ]
    batches_per_update: int = 1
    delayed: Delayed | None = None
