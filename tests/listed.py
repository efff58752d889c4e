"""What `dime/data` lists because asking for it is slow: `python -m tests.listed` regenerates it."""

import json
import re
from importlib import import_module
from pathlib import Path

import gymnasium

import dime
from dime.algorithms.registry import ALGORITHMS
from dime.envs.myosuite import import_myosuite
from dime.training.presets import preset_training

DATA = Path(dime.__file__).parent / "data"
PAGE = Path(__file__).parents[1] / "docs/algorithms.md"
FILES = {name: DATA / f"{name}.json" for name in ("algorithms", "environments")}


def algorithms():
    """The table of `dime list algorithms`."""
    return [
        ["name", "paper", "year", "policy", "critic", "official evaluation mode"],
        *(
            [a.name, a.paper, str(a.year), a.policy, a.critic, a.official_mode]
            for a in ALGORITHMS.values()
        ),
    ]


def documented(page):
    """docs/algorithms.md with the table of all algorithms as their records and presets say."""
    anchors = {}
    for heading in re.findall("^## (.+)$", page, re.MULTILINE):
        anchors |= dict.fromkeys(heading.split(" and "), heading.lower().replace(" ", "-"))
    rows = []
    for a in ALGORITHMS.values():
        updates = preset_training("paper", a.name, "dm_control/dog-run").updates_per_env_step
        least, most = a.network_evaluations(a.config())
        cells = (
            f"[`{a.name}`](#{anchors.get(a.name, '')})",
            f"[{a.paper}]({a.url})",
            *(str(a.year), a.policy, a.critic, f"`{a.official_mode}`", str(updates)),
            str(least) if least == most else f"{least} to {most}",
        )
        rows.append(f"| {' | '.join(cells)} |\n")
    before, rule, after = page.partition("|---|---|---|---|---|---|---|---|\n")
    rest = after[re.search(r"^(?!\|)", after, re.MULTILINE).start() :]
    return before + rule + "".join(rows) + rest


def dm_control():
    """Not lqr, whose actuators have no limits."""
    tasks = import_module("dm_control.suite").ALL_TASKS
    return [f"dm_control/{domain}-{task}" for domain, task in tasks if domain != "lqr"]


def myosuite():
    """What it registers with Gymnasium."""
    import_myosuite()
    entries = gymnasium.registry.items()
    return [id for id, spec in entries if str(spec.entry_point).startswith("myosuite.")]


def playground():
    """Its DM Control Suite; the other suites download their models."""
    tasks = import_module("mujoco_playground").dm_control_suite.ALL_ENVS
    return [f"playground/{name}" for name in tasks]


def main():
    suites = {suite.__name__: suite() for suite in (dm_control, myosuite, playground)}
    for name, content in (("algorithms", algorithms()), ("environments", suites)):
        FILES[name].write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(documented(PAGE.read_text()))


if __name__ == "__main__":
    main()
