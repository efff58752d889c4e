"""Names of arrays in the checkpoints of earlier releases (R13)."""

from collections.abc import Iterable, Mapping
from typing import Any


def with_present_names(arrays: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The arrays under `names`, if a checkpoint has them under the names of release 0.1.

    There the policy and its optimiser stood side by side in the state, and SAC's policy was the
    perceptron itself.
    """
    present = dict(arrays)
    for name in set(names) - set(arrays):
        former = name.replace(".policy.module", ".policy", 1)
        former = former.replace(".policy.optimizer", ".policy_optimizer", 1)
        for candidate in (former, former.replace(".network", "", 1)):
            if candidate in present:
                present[name] = present.pop(candidate)
                break
    return present
