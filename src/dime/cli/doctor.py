"""`dime doctor`: what this machine has, and what is known not to work together."""

import importlib.metadata
import platform
import sys
from contextlib import suppress

import jax
from packaging.requirements import Requirement

from dime.envs.rendering import renderer_status

_PACKAGES = ("jax", "jaxlib", "equinox", "optax", "numpy", "mujoco", "dm-control", "gymnasium")
_EXTRA_OF = {"myosuite": "myo", "playground": "playground"}
_EXTRA_OF |= {"imageio-ffmpeg": "video", "wandb": "wandb"}
_KNOWN_BAD = {
    ("mujoco>=4",): "mujoco {mujoco} breaks dm_control (no attribute 'flex_vertedge'): pip install "
    "'mujoco<4'",
    ("gymnasium>=1.3", "myosuite"): "gymnasium {gymnasium} with myosuite {myosuite}: MyoSuite 2.12 "
    "needs gymnasium<1.3: pip install 'gymnasium<1.3'",
    ("myosuite!=2.12.*",): "myosuite {myosuite} has other tasks than the paper's: pip install "
    "'gymnasium<1.3' 'myosuite==2.12.2'",
}


def known_bad(versions: dict[str, str]) -> list[str]:
    """Combinations of versions that fail, with the remedy. `versions` by distribution name.

    >>> known_bad({"mujoco": "4.0.0", "dm-control": "1.0.50"})
    ["mujoco 4.0.0 breaks dm_control (no attribute 'flex_vertedge'): pip install 'mujoco<4'"]
    """

    def fits(text: str) -> bool:
        asked = Requirement(text)
        return asked.name in versions and asked.specifier.contains(versions[asked.name], True)

    return [text.format_map(versions) for bad, text in _KNOWN_BAD.items() if all(map(fits, bad))]


def examine() -> int:
    """Prints the findings; returns 1 if something would not work, else 0."""
    versions = {}
    for name in (*_PACKAGES, *_EXTRA_OF):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    problems = known_bad(versions)
    print(f"python         {platform.python_version()} ({sys.executable})")
    try:
        kind = jax.devices()[0].device_kind
        print(f"device         {kind} ({jax.default_backend()}, {jax.device_count()} of them)")
    except Exception as error:  # JAX raises several kinds
        problems.append(f"JAX finds no device ({type(error).__name__}: {error}): JAX_PLATFORMS?")
    for name in (*_PACKAGES, *_EXTRA_OF):
        missing = f"missing: pip install 'dime-rl[{_EXTRA_OF.get(name, '')}]'".replace("[]", "")
        print(f"{name:14} {versions.get(name, missing)}")
    renderer, message = renderer_status()
    print(f"renderer       {renderer or 'none'}: {message}")
    for problem in problems:
        print(f"PROBLEM   {problem}")
    if not problems:
        print("No known problem.")
    return 1 if problems else 0
