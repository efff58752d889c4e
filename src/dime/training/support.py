"""Whether the support of a categorical critic is wide enough for what it learns."""

from collections.abc import Mapping
from typing import Any

_LARGEST_SHARE = 0.01
_RECORDS_IN_A_ROW = 2  # an untrained critic spreads its mass over the whole support


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
        entropy = metrics.get("target_entropy", 0.0)  # older checkpoints' last metrics lack it
        return (
            f"warning: seed {seed}: {share:.1%} of the critic's target mass lies outside of its "
            f"support and is cut off. Mean targets of the newest minibatch lie in [{low:.4g}, "
            f"{high:.4g}], and the entropy's part of them goes to {entropy:.4g}. "
            + _advice(low, high, entropy)
        )


def _advice(low: float, high: float, entropy: float) -> str:
    """What to do, by which of the two does not fit: the entropy's part, or the returns."""
    if abs(entropy) > 0.5 * max(abs(low), abs(high)):
        return (
            "The entropy does not fit, rather than the returns: train with a smaller "
            "--temperature.initial, or with rewards that are larger beside it. A support wide "
            "enough for the entropy would tell few returns apart."
        )
    return "The returns do not fit: train with a wider support, --critic.v-min, --critic.v-max."
