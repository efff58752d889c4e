"""The algorithms by name: the one place that an algorithm is listed in."""

from importlib import import_module

from dime.algorithms.algorithm import Algorithm
from dime.algorithms.bro import BRO, BRO_FAST
from dime.algorithms.consistency_ac import CONSISTENCY_AC
from dime.algorithms.crossq import CROSSQ
from dime.algorithms.dacer import DACER
from dime.algorithms.diffusion_ql import DIFFUSION_QL
from dime.algorithms.dime import DIME, DIME_GAUSSIAN, DIME_GB
from dime.algorithms.dipo import DIPO
from dime.algorithms.qsm import QSM
from dime.algorithms.qvpo import QVPO
from dime.algorithms.sac import SAC
from dime.errors import DimeError, choose

ALGORITHMS: dict[str, Algorithm] = {
    algorithm.name: algorithm
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
    module_name, colon, attribute = name.partition(":")
    if not colon:
        return ALGORITHMS[choose("algorithm", name, ALGORITHMS)]
    try:
        found = getattr(import_module(module_name), attribute, None)
    except ImportError as error:
        raise DimeError(
            f"The algorithm '{name}' is to come from the module '{module_name}', which cannot be "
            f"imported: {error}. Is its folder on PYTHONPATH?"
        ) from error
    if not isinstance(found, Algorithm):
        raise DimeError(f"'{attribute}' in the module '{module_name}' is not a dime.Algorithm.")
    return found
