"""Two minibatches in one."""

import jax

from dime.types import Batch


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """The first and the second half of the rows, which were drawn independently."""
    middle = batch.index.shape[0] // 2
    first = jax.tree.map(lambda leaf: leaf[:middle], batch)
    return first, jax.tree.map(lambda leaf: leaf[middle:], batch)
