"""`dime doctor`: what this machine has, and what is known not to work together."""

import importlib.metadata
import importlib.util
import platform
import sys

import jax
from packaging.version import Version

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
_PACKAGES = ("jax", "jaxlib", "equinox", "optax", "numpy", "mujoco", "dm-control", "gymnasium")


def known_bad(versions: dict[str, str]) -> list[str]:
    """Combinations of versions that fail, with the remedy. `versions` by distribution name.

    >>> known_bad({"mujoco": "4.0.0", "dm-control": "1.0.50"})
    ["mujoco 4.0.0 breaks dm_control (no attribute 'flex_vertedge'): pip install 'mujoco<4'"]
    """

    def at_least(name: str, bound: str) -> bool:
        return name in versions and Version(versions[name]) >= Version(bound)

    problems = []
    if at_least("mujoco", "4"):
        problems.append(
            f"mujoco {versions['mujoco']} breaks dm_control (no attribute 'flex_vertedge'): "
            "pip install 'mujoco<4'"
        )
    if at_least("gymnasium", "1.3") and "myosuite" in versions:
        problems.append(
            f"gymnasium {versions['gymnasium']} with myosuite {versions['myosuite']}: MyoSuite "
            "2.12 needs gymnasium<1.3: pip install 'gymnasium<1.3'"
        )
    if at_least("myosuite", "3"):
        problems.append(
            f"myosuite {versions['myosuite']} has other tasks than the paper's (episodes of "
            "myoHandReachRandom last 100 steps): pip install 'myosuite==2.12.2'"
        )
    if "myosuite" in versions and not at_least("myosuite", "2.12"):
        problems.append(
            f"myosuite {versions['myosuite']} is what a resolver falls back to when gymnasium is "
            "too new: pip install 'gymnasium<1.3' 'myosuite==2.12.2'"
        )
    return problems


def installed_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Versions of those distributions that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def examine() -> int:
    """Prints the findings; returns 1 if something would not work, else 0."""
    versions = installed_versions((*_PACKAGES, *(name for name, _ in _SUITES.values())))
    problems = known_bad(versions)
    print(f"python    {platform.python_version()} ({sys.executable})")
    try:
        kind = jax.devices()[0].device_kind
        print(f"device    {kind} ({jax.default_backend()}, {jax.device_count()} of them)")
    except Exception as error:  # JAX's own are of several kinds
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
