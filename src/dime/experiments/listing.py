"""What `dime list` shows."""

from dime.algorithms.registry import ALGORITHMS
from dime.envs.registry import list_environments
from dime.experiments.presets import PRESETS


def listing(what: str) -> str:
    """Algorithms, environments or presets, a line each."""
    if what == "algorithms":
        rows = [
            f"{name:13}  {a.paper}; policy: {a.policy}; critic: {a.critic}"
            for name, a in ALGORITHMS.items()
        ]
    elif what == "presets":
        rows = [f"{name:8}  {text}" for name, text in PRESETS.items()]
    else:
        rows = []
        for suite, ids in list_environments().items():
            rows += [f"{suite} ({len(ids)}):", *(f"  {name}" for name in ids)]
    return "\n".join(rows)
