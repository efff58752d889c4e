"""The algorithms by name: the one place that an algorithm is listed in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dime.algorithms.dime import DimeConfig, dime
from dime.types import Agent, EnvSpec


@dataclass(frozen=True)
class Algorithm:
    """What the rest of the package needs to know of an algorithm.

    `make(config, spec)` makes its agent; `presets` say by name what differs from the config's
    defaults, nested as the config is. A preset that is not there differs in nothing.
    """

    make: Callable[[Any, EnvSpec], Agent]
    config: type
    presets: Mapping[str, dict[str, Any]]
    paper: str
    policy: str
    critic: str


_LAPTOP_DIME = {
    "policy": {
        "num_denoising_steps": 8,
        "hidden_dim": 128,
        "num_hidden_layers": 2,
        "learning_rate": 7e-4,
    },
    "critic": {"hidden_dim": 256, "learning_rate": 7e-4},
    "temperature": {"initial": 0.1},
    "policy_delay": 2,
}


ALGORITHMS = {
    "dime": Algorithm(
        make=dime,
        config=DimeConfig,
        presets={"laptop": _LAPTOP_DIME},
        paper="Celik et al., ICML 2025",
        policy="denoising chain with a bound on its entropy",
        critic="categorical x2, joint pass, batch renormalisation",
    ),
}
