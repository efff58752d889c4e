"""Diffusion-based maximum-entropy reinforcement learning in JAX.

    import dime

    dime.train("dm_control/cartpole-swingup", preset="laptop", run_dir="my-run")
    policy = dime.load_policy("my-run")

The names below are imported when first used, so that the mathematics (`dime.diffusion`,
`dime.algorithms`, ...) needs nothing but jax, equinox, optax and jaxtyping.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dime import statistics
    from dime.algorithms.algorithm import Algorithm, Preset
    from dime.deploy.evaluate import evaluate
    from dime.deploy.export import export_policy
    from dime.deploy.policy import load_policy
    from dime.envs.registry import list_environments, make_env
    from dime.errors import DimeError
    from dime.sweeps import SweepResult, sweep
    from dime.sweeps.study import Study
    from dime.training.run import RunFailedError, resume, train

__version__ = "0.1.0"

_PUBLIC = {
    "Algorithm": "dime.algorithms.algorithm",
    "Preset": "dime.algorithms.algorithm",
    "train": "dime.training.run",
    "resume": "dime.training.run",
    "RunFailedError": "dime.training.run",
    "evaluate": "dime.deploy.evaluate",
    "export_policy": "dime.deploy.export",
    "load_policy": "dime.deploy.policy",
    "make_env": "dime.envs.registry",
    "list_environments": "dime.envs.registry",
    "DimeError": "dime.errors",
    "Study": "dime.sweeps.study",
    "SweepResult": "dime.sweeps",
    "sweep": "dime.sweeps",
}
_PUBLIC_MODULES = {"statistics"}

__all__ = [
    "Algorithm",
    "DimeError",
    "Preset",
    "RunFailedError",
    "Study",
    "SweepResult",
    "__version__",
    "evaluate",
    "export_policy",
    "list_environments",
    "load_policy",
    "make_env",
    "resume",
    "statistics",
    "sweep",
    "train",
]


def __getattr__(name: str) -> object:
    if name in _PUBLIC_MODULES:
        return importlib.import_module(f"dime.{name}")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'dime' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
