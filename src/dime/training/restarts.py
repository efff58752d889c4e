"""Environments that raise: made anew a few times, each time told of."""

import traceback
from collections.abc import Callable

from dime.errors import DimeError, describe

TellOfRestart = Callable[[int, int, str], None]
"""Hears the seed, how many restarts it has had, and the text to show."""


def tell_nobody(seed: int, count: int, text: str) -> None:
    """Hears it and does nothing."""


class Restarts:
    """How often the environments of a seed were made anew, in training and evaluations together."""

    def __init__(self, seed: int, limit: int = 0, tell: TellOfRestart = tell_nobody):
        self.seed = seed
        self.limit = limit
        self.count = 0
        self._tell = tell

    def take(self, env_name: str, error: Exception, cost: str = "the episode is cut") -> bool:
        """Counts one and tells its cost; False where none is left, and nothing is counted.

        Also where the environment broke its own rules (a NaN, another shape): it would again, and
        what it answered is not to be hidden.
        """
        if isinstance(error, DimeError) or self.count >= self.limit:
            return False
        self.count += 1
        text = (
            f"warning: {env_name} raised {describe(error).rstrip('.')}. It is made anew for seed "
            f"{self.seed} ({self.count} of {self.limit} times), and {cost}.\n"
        )
        self._tell(self.seed, self.count, text + "".join(traceback.format_exception(error)))
        return True
