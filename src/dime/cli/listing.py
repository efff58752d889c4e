"""What `dime list` shows.

What is slow to ask for (JAX, the simulators) is listed in `dime/data`; `python -m tests.listed`
regenerates it, and a test compares it with what there really is.
"""

import json
import tomllib
from importlib import resources
from typing import Any

_PACKAGE = resources.files("dime")


def listing(what: str) -> str:
    """Algorithms, environments, presets or studies, a line each."""
    if what in ("algorithms", "presets"):
        rows = _aligned(json.loads(_PACKAGE.joinpath("data", f"{what}.json").read_text("utf-8")))
    elif what == "studies":
        files = [
            file
            for file in _PACKAGE.joinpath("sweeps", "studies").iterdir()
            if file.name.endswith(".toml")
        ]
        descriptions = {
            file.name.removesuffix(".toml"): tomllib.loads(file.read_text("utf-8"))["description"]
            for file in files
        }
        rows = _aligned(sorted(descriptions.items()))
    else:
        from dime.envs.registry import list_environments

        rows = []
        for suite, ids in list_environments().items():
            rows += [f"{suite} ({len(ids)}):", *(f"  {name}" for name in ids)]
    return "\n".join(rows)


def _aligned(rows: list[Any]) -> list[str]:
    """Rows of a table, whose columns are as wide as their longest entry."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
