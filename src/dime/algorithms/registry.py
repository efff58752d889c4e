"""The algorithms by name: the one place that an algorithm is listed in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dime.algorithms.crossq import CrossQConfig, crossq
from dime.algorithms.dime import DimeConfig, DimeGaussianConfig, DimeGbConfig, dime
from dime.algorithms.sac import SacConfig, sac
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
    training: Mapping[str, Any] = field(default_factory=dict)
    """What the algorithm changes in the loop's settings, in every preset."""


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


_LAPTOP_GAUSSIAN = _LAPTOP_DIME | {
    "policy": {"hidden_dim": 128, "num_hidden_layers": 2, "learning_rate": 1e-3},
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
    "dime-gaussian": Algorithm(
        make=dime,
        config=DimeGaussianConfig,
        presets={"laptop": _LAPTOP_GAUSSIAN},
        paper="Celik et al., ICML 2025, section 5.1",
        policy="tanh-Gaussian",
        critic="categorical x2, joint pass, batch renormalisation",
    ),
    "dime-gb": Algorithm(
        make=dime,
        config=DimeGbConfig,
        presets={"laptop": _LAPTOP_DIME},
        paper="Celik et al., ICML 2025, appendix F",
        policy="general bridge: denoising and noising chain both learnt",
        critic="categorical x2, joint pass, batch renormalisation",
    ),
    "sac": Algorithm(
        make=sac,
        config=SacConfig,
        presets={"laptop": {}},
        paper="Haarnoja et al., 2018",
        policy="tanh-Gaussian",
        critic="scalar x2, target networks",
        training={"updates_per_env_step": 1},
    ),
    "crossq": Algorithm(
        make=crossq,
        config=CrossQConfig,
        presets={"laptop": {"critic": {"hidden_dim": 256}}},
        paper="Bhatt et al., ICLR 2024",
        policy="tanh-Gaussian, batch renormalisation",
        critic="scalar x2, joint pass, batch renormalisation",
    ),
}
