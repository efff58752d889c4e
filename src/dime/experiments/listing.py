"""What `dime list` shows."""

from dime.algorithms.registry import ALGORITHMS
from dime.envs.registry import list_environments
from dime.experiments.presets import PRESETS
from dime.experiments.study_files import read_study, shipped_studies


def listing(what: str) -> str:
    """Algorithms, environments, presets or studies, a line each."""
    if what == "algorithms":
        columns = [
            ("name", "paper", "year", "policy", "critic", "official evaluation mode"),
            *(
                (a.name, a.paper, str(a.year), a.policy, a.critic, a.official_mode)
                for a in ALGORITHMS.values()
            ),
        ]
        rows = _aligned(columns)
    elif what == "presets":
        rows = [f"{name:8}  {text}" for name, text in PRESETS.items()]
    elif what == "studies":
        described = {name: read_study(name).description for name in shipped_studies()}
        rows = _aligned(list(described.items()))
    else:
        rows = []
        for suite, ids in list_environments().items():
            rows += [f"{suite} ({len(ids)}):", *(f"  {name}" for name in ids)]
    return "\n".join(rows)


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows of a table, whose columns are as wide as their longest entry."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
