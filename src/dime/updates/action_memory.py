"""An action for every transition in the replay, which may be better than the one taken."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dime.types import Batch

_NONE = -(2**31)  # the number of no transition, also of none in a row still to be filled


class ActionMemory(eqx.Module):
    """Actions by row of the replay, and which transition each was remembered for.

    Transition number t (0, 1, 2, ...) stands in row t % capacity until a newer one takes its
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
