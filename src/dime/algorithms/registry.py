"""The algorithms by name: the one place that an algorithm is listed in."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dime.algorithms.dime import DimeConfig, dime
from dime.types import Agent, EnvSpec


@dataclass(frozen=True)
class Algorithm:
    """What the rest of the package needs to know of an algorithm."""

    make: Callable[[Any, EnvSpec], Agent]
    config: type
    paper: str
    policy: str
    critic: str


ALGORITHMS = {
    "dime": Algorithm(
        make=dime,
        config=DimeConfig,
        paper="Celik et al., ICML 2025",
        policy="denoising chain with a bound on its entropy",
        critic="categorical x2, joint pass, batch renormalisation",
    ),
}
