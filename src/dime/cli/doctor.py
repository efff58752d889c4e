"""`dime doctor`: what this machine has, and what is known not to work together."""

import importlib.metadata
import importlib.util
import platform
import sys
from contextlib import suppress

import jax
from packaging.requirements import Requirement

from dime.envs.rendering import renderer_status

_SUITES = {
    "dm_control": ("dm-control", "pip install dime-rl"),
    "gymnasium": ("gymnasium", "pip install dime-rl"),
    "myosuite": ("myosuite", "pip install 'dime-rl[myo]'"),
    "playground": ("playground", "pip install 'dime-rl[playground]'"),
}
_EXTRAS = {
    "imageio_ffmpeg": "videos: pip install 'dime-rl[video]'",
    "wandb": "W&B: pip install 'dime-rl[wandb]'",
}
_KNOWN_BAD = {
    ("mujoco>=4",): "mujoco {mujoco} breaks dm_control (no attribute 'flex_vertedge'): pip install "
    "'mujoco<4'",
    ("gymnasium>=1.3", "myosuite"): "gymnasium {gymnasium} with myosuite {myosuite}: MyoSuite 2.12 "
    "needs gymnasium<1.3: pip install 'gymnasium<1.3'",
    ("myosuite!=2.12.*",): "myosuite {myosuite} has other tasks than the paper's: pip install "
    "'gymnasium<1.3' 'myosuite==2.12.2'",
}
_PACKAGES = ("jax", "jaxlib", "equinox", "optax", "numpy", "mujoco", "dm-control", "gymnasium")


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
    names = (*_PACKAGES, *(name for name, _ in _SUITES.values()))
    versions = {}
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    problems = known_bad(versions)
    print(f"python    {platform.python_version()} ({sys.executable})")
    try:
        kind = jax.devices()[0].device_kind
        print(f"device    {kind} ({jax.default_backend()}, {jax.device_count()} of them)")
    except Exception as error:  # JAX raises several kinds
        problems.append(f"JAX finds no device ({type(error).__name__}: {error}): JAX_PLATFORMS?")
    for name, version in versions.items():
        print(f"{name:9} {version}")
    for suite, (package, remedy) in _SUITES.items():
        print(f"suite     {suite}: {'installed' if package in versions else f'missing, {remedy}'}")
    for module, remedy in _EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            print(f"optional  {module} is missing ({remedy})")
    renderer, message = renderer_status()
    print(f"renderer  {renderer or 'none'}: {message}")
    for problem in problems:
        print(f"PROBLEM   {problem}")
    if not problems:
        print("No known problem.")
    return 1 if problems else 0
