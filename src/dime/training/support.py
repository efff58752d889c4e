"""Whether the support of a categorical critic is wide enough for what it learns."""

from collections.abc import Mapping
from typing import Any

_LARGEST_SHARE = 0.01
_RECORDS_IN_A_ROW = 2  # an untrained critic spreads its mass over the whole support
_RETURNS_CLIP = (
    "The returns do not fit: train with a wider support, --critic.v-min, --critic.v-max."
)
_ENTROPY_CLIPS = (
    "The entropy's term does not fit, rather than the returns: train with a smaller "
    "--temperature.initial, or with rewards that are larger beside it. A support wide enough for "
    "the entropy would resolve few returns."
)


class SupportWatch:
    """Looks at the records of a run, and says once for each seed that returns are cut off."""

    def __init__(self) -> None:
        self._in_a_row: dict[int, int] = {}

    def warning(self, seed: int, metrics: Mapping[str, Any]) -> str | None:
        """What to say after these metrics of a seed; None where nothing is amiss, or was said."""
        share = metrics.get("target_clipped_mass")
        if share is None:
            return None
        count = self._in_a_row.get(seed, 0)
        if count >= _RECORDS_IN_A_ROW:
            return None
        self._in_a_row[seed] = count + 1 if share > _LARGEST_SHARE else 0
        if self._in_a_row[seed] < _RECORDS_IN_A_ROW:
            return None
        low, high = metrics["target_low"], metrics["target_high"]
        of_returns = metrics.get(
            "target_clipped_mass_of_returns", share
        )  # older checkpoints lack it
        return (
            f"warning: seed {seed}: {share:.1%} of the critic's target mass lies outside of its "
            f"support and is cut off ({of_returns:.1%} without the entropy's term). Mean targets "
            f"of the newest minibatch lie in [{low:.4g}, {high:.4g}]. "
            + (_RETURNS_CLIP if of_returns > _LARGEST_SHARE else _ENTROPY_CLIPS)
        )
