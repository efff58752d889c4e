"""CrossQ's network: a perceptron with batch renormalisation before every layer."""

from typing import TypeAlias

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key

from dime.networks.batch_renorm import BatchRenorm, RunningStats
from dime.networks.dense import Dense, dense_stack

Stats: TypeAlias = tuple[RunningStats, ...]
"""Running statistics of each normalisation layer, from input to output."""


class BatchRenormMlp(eqx.Module):
    """BatchRenorm of the input; Dense, ReLU, BatchRenorm per hidden layer; Dense."""

    norms: tuple[BatchRenorm, ...]
    hidden: tuple[Dense, ...]
    output: Dense

    def __init__(self, sizes: tuple[int, ...], warmup_calls: int, key: Key[Array, ""]):
        hidden_key, output_key = jax.random.split(key)
        self.norms = tuple(BatchRenorm(width, warmup_calls) for width in sizes[:-1])
        self.hidden = dense_stack(sizes[:-1], hidden_key)
        self.output = Dense(sizes[-2], sizes[-1], output_key)

    def initial_stats(self) -> Stats:
        """Running statistics before any training call."""
        return tuple(RunningStats.start(norm.scale.shape[-1]) for norm in self.norms)

    def __call__(
        self, x: Float[Array, "*batch in_dim"], stats: Stats
    ) -> Float[Array, "*batch out"]:
        """Evaluation mode: the running statistics normalise."""
        x = self.norms[0](x, stats[0])
        for layer, norm, running in zip(self.hidden, self.norms[1:], stats[1:], strict=True):
            x = norm(jax.nn.relu(layer(x)), running)
        return self.output(x)

    def train(
        self, x: Float[Array, "batch in_dim"], stats: Stats
    ) -> tuple[Float[Array, "batch out"], Stats]:
        """Training mode: the batch's statistics normalise, and move the running ones."""
        x, updated = self.norms[0].train(x, stats[0])
        updated_stats = [updated]
        for layer, norm, running in zip(self.hidden, self.norms[1:], stats[1:], strict=True):
            x, updated = norm.train(jax.nn.relu(layer(x)), running)
            updated_stats.append(updated)
        return self.output(x), tuple(updated_stats)
