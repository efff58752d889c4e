"""What the rest of the package needs to know of an algorithm."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any

from dime.errors import Checked, Count, Fraction, choose, require
from dime.types import Agent, EnvSpec


@dataclass(frozen=True)
class AlgorithmConfig(Checked):
    """What the config of every algorithm has."""

    discount: Fraction = 0.99
    """Discount factor, in [0, 1)."""
    num_action_candidates: Count = 16
    """Actions sampled in the evaluation mode best_of_n (our choice)."""


@dataclass(frozen=True)
class Preset:
    """What differs from the defaults: of the algorithm's config (nested as it is), of the loop.

    `by_env` has more of it for environments, by suite (`mujoco`, `dm_control`, `myosuite`) or by
    a pattern of ids (`Ant-*`); the later ones win.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    by_env: Mapping[str, "Preset"] = field(default_factory=dict)


@dataclass(frozen=True)
class Algorithm:
    """An algorithm by name, with its source.

    `make(config, spec)` makes its agent. `modes` are its evaluation modes, its authors' own first.
    The other presets build on the preset `paper`; one that is missing equals it.
    """

    name: str
    paper: str
    year: int
    policy: str
    critic: str
    make: Callable[[Any, EnvSpec], Agent]
    config: type
    modes: tuple[str, ...] = ("deterministic", "stochastic", "best_of_n")
    presets: Mapping[str, Preset] = field(default_factory=dict)
    check: Callable[[Any, Any], None] = lambda settings, training: None
    """Raises `DimeError` where settings do not go with those of the loop."""
    network_evaluations: Callable[[Any], tuple[int, int]] = lambda settings: (0, 0)
    """How often an update evaluates the policy's networks for each row of its minibatch, in forward
    passes: in every update, and in one in which everything is due. (0, 0) means not known."""
    url: str = ""
    """Of the paper."""

    def __post_init__(self):
        modes = self.modes
        require(
            isinstance(modes, tuple) and len(modes) == len({*modes, "explore"}) - 1 > 0,
            f"The modes of the algorithm '{self.name}' are {modes!r}; they must be a tuple of "
            "different names, at least one, without 'explore'.",
        )
        for preset in self.presets:
            choose("preset", preset, ("paper", "released", "laptop"))
        require(
            is_dataclass(self.config),
            f"The config of the algorithm '{self.name}' must be a dataclass, not {self.config!r}.",
        )

    @property
    def official_mode(self) -> str:
        """The evaluation mode of the authors' own results."""
        return self.modes[0]

    @property
    def default_modes(self) -> tuple[str, ...]:
        """The official mode and a common one: stochastic, or where it is that, deterministic."""
        official = self.official_mode
        common = "deterministic" if official == "stochastic" else "stochastic"
        return (official, common) if common in self.modes else (official,)
