"""What `dime/data` lists because asking for it is slow: `python -m tests.listed` writes it."""

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


def environments():
    """Ids by suite, of the versions that are installed here."""
    import_myosuite()
    tasks = import_module("dm_control.suite").ALL_TASKS
    return {
        # Not lqr, whose actuators have no limits.
        "dm_control": [f"dm_control/{d}-{task}" for d, task in tasks if d != "lqr"],
        "myosuite": [
            id
            for id, spec in gymnasium.registry.items()
            if str(spec.entry_point).startswith("myosuite.")
        ],
        # The other suites of Playground download their models.
        "playground": [
            f"playground/{name}"
            for name in import_module("mujoco_playground").dm_control_suite.ALL_ENVS
        ],
    }


if __name__ == "__main__":
    for name, content in (("algorithms", algorithms()), ("environments", environments())):
        FILES[name].write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
