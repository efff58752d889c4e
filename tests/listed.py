"""What `dime/data` lists because asking for it is slow: `python -m tests.listed` regenerates it."""

import json
from importlib import import_module
from pathlib import Path

import gymnasium

import dime
from dime.algorithms.registry import ALGORITHMS
from dime.envs.myosuite import import_myosuite

DATA = Path(dime.__file__).parent / "data"
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


if __name__ == "__main__":
    main()
