"""Environments: names, adapters, and the view that a training loop has of them.

Knows nothing of learning, and does not import JAX. Simulators are imported when they are used.
"""

from dime.envs.environment import Environment, NonFiniteError, StepResult
from dime.envs.registry import EnvFactory, list_environments, make, make_env, suite_of
from dime.envs.rendering import choose_renderer, renderer_status
from dime.envs.spaces import Leaf, Spaces
from dime.envs.tiny import MultiGoal, TwoModeBandit, two_mode_log_density

__all__ = [
    "EnvFactory",
    "Environment",
    "Leaf",
    "MultiGoal",
    "NonFiniteError",
    "Spaces",
    "StepResult",
    "TwoModeBandit",
    "choose_renderer",
    "list_environments",
    "make",
    "make_env",
    "renderer_status",
    "suite_of",
    "two_mode_log_density",
]
