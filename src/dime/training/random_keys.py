"""Random keys of a run, derived from the seed and from counters, so that none are kept."""

from enum import IntEnum
from typing import Any

import jax
from jaxtyping import Array, Key


class Stream(IntEnum):
    """What random numbers are for."""

    INIT = 0
    RANDOM_ACTION = 1
    EXPLORE = 2
    BATCH = 3
    UPDATE = 4
    EVALUATION = 5
    EPISODE = 6


def derive(key: Key[Array, ""], stream: Stream, *numbers: Any) -> Key[Array, ""]:
    """The key of a stream at these counters."""
    key = jax.random.fold_in(key, stream)
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key
