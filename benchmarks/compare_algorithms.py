"""The table of docs/algorithms.md: the final score of every algorithm on two small tasks.

dime sweep comparison
python benchmarks/compare_algorithms.py runs/comparison --json benchmarks/results/comparison.json
"""

import argparse
import json
from pathlib import Path

from dime.figures.curves import panels_of
from dime.figures.paper import official
from dime.figures.runs import read_runs


def rows_of(study: Path) -> list[dict]:
    """Per task and algorithm the final score, and its share of what SAC gained over the start."""
    rows = []
    for panel in panels_of(official(read_runs(study))):
        finals = {curve.algorithm: curve for curve in panel.curves}
        start = {name: _point(curve, 0) for name, curve in finals.items()}
        # Before training every algorithm acts about as badly: the mean of all is the common start.
        origin = sum(start.values()) / len(start)
        gain = _point(finals["sac"], -1) - origin
        for name, curve in finals.items():
            low, high = curve.series.band[:, -1]
            rows.append(
                {
                    "environment": panel.environment,
                    "algorithm": name,
                    "mode": curve.mode,
                    "seeds": curve.series.num_runs,
                    "env_step": int(curve.series.env_step[-1]),
                    "iqm": _point(curve, -1),
                    "interval": [float(low), float(high)],
                    "share_of_sac": (_point(curve, -1) - origin) / gain,
                }
            )
    return rows


def _point(curve, place: int) -> float:
    return float(curve.series.lines[0, place])


def table(rows: list[dict]) -> str:
    """As Markdown, a line per algorithm."""
    tasks = list(dict.fromkeys(row["environment"] for row in rows))
    cells = {(row["algorithm"], row["environment"]): row for row in rows}
    head = " | ".join(f"{task}: return | of SAC's gain" for task in tasks)
    lines = [f"| algorithm | mode | {head} |", "|---|---|" + "---|---|" * len(tasks)]
    for name in dict.fromkeys(row["algorithm"] for row in rows):
        found = [cells.get((name, task)) for task in tasks]
        mode = next(row["mode"] for row in found if row).replace("_", " ")
        shown = " | ".join(_shown(row) for row in found)
        lines.append(f"| `{name}` | {mode} | {shown} |")
    return "\n".join(lines)


def _shown(row: dict | None) -> str:
    if row is None:
        return "- | -"
    low, high = row["interval"]
    return f"{row['iqm']:.2f} [{low:.2f}, {high:.2f}] | {100 * row['share_of_sac']:.0f} %"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    found = rows_of(words.study)
    print(table(found))
    if words.json is not None:
        words.json.write_text(json.dumps(found, indent=1) + "\n")
