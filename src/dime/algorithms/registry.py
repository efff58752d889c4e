"""The algorithms by name: the one place that lists them. Their presets are in `presets.toml`."""

import dataclasses
import tomllib
from importlib import import_module, resources
from typing import Any

from dime.algorithms.algorithm import Algorithm, Preset
from dime.algorithms.bro.bro import BRO, BRO_FAST
from dime.algorithms.crossq import CROSSQ
from dime.algorithms.dacer.dacer import DACER
from dime.algorithms.diffusion_ql import CONSISTENCY_AC, DIFFUSION_QL
from dime.algorithms.dime import DIME, DIME_GAUSSIAN, DIME_GB
from dime.algorithms.dipo import DIPO
from dime.algorithms.qsm import QSM
from dime.algorithms.qvpo import QVPO
from dime.algorithms.sac import SAC
from dime.errors import DimeError, choose, require

_FILE = resources.files("dime.algorithms").joinpath("presets.toml")
_PRESETS = tomllib.loads(_FILE.read_text("utf-8"))


def _preset(table: dict[str, Any]) -> Preset:
    by_env = {pattern: _preset(more) for pattern, more in table.get("by_env", {}).items()}
    return Preset(table.get("settings", {}), table.get("training", {}), by_env)


def with_presets(algorithm: Algorithm) -> Algorithm:
    """The algorithm with its own presets and those of the file, which win."""
    presets = {name: _preset(table) for name, table in _PRESETS.get(algorithm.name, {}).items()}
    return dataclasses.replace(algorithm, presets={**algorithm.presets, **presets})


ALGORITHMS: dict[str, Algorithm] = {
    algorithm.name: with_presets(algorithm)
    for algorithm in (
        *(DIME, DIME_GAUSSIAN, DIME_GB),
        *(SAC, CROSSQ, BRO, BRO_FAST),
        *(DACER, QSM, DIPO, QVPO, DIFFUSION_QL, CONSISTENCY_AC),
    )
}


def find_algorithm(name: str) -> Algorithm:
    """The algorithm of this name: one of `ALGORITHMS`, or `module:NAME` for one of your own.

    Raises:
        DimeError: there is none; the nearest names are given.

    >>> find_algorithm("dime-gb").year
    2025
    """
    require(
        isinstance(name, str),
        f"algorithm is {name!r}; give a name, for one of your own as 'module:NAME'.",
    )
    module_name, colon, attribute = name.partition(":")
    if not colon:
        return ALGORITHMS[choose("algorithm", name, ALGORITHMS)]
    try:
        module = import_module(module_name)
    except Exception as error:  # whatever a user's module raises
        hint = " Is its folder on PYTHONPATH?" if getattr(error, "name", "") == module_name else ""
        raise DimeError(
            f"The algorithm '{name}' needs the module '{module_name}', which cannot be "
            f"imported ({type(error).__name__}: {error}).{hint}"
        ) from error
    offered = {key: value for key, value in vars(module).items() if isinstance(value, Algorithm)}
    return offered[choose(f"dime.Algorithm in the module '{module_name}'", attribute, offered)]
