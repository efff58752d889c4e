"""Environments that normalise by statistics of what they have seen, which no two of them share."""

from typing import Any

import gymnasium

from dime.errors import DimeError


def refuse_running_statistics(env: gymnasium.Env, name: str) -> gymnasium.Env:
    """The environment, or `DimeError` where it or a wrapper around it keeps running statistics.

    Evaluations, a resumed run and an exported policy would see other numbers than the training
    environment gave. Statistics that are no longer updated are fixed numbers, and pass.
    """
    layer = env
    while True:
        kept = _running_statistics(layer)
        if kept and getattr(layer, "update_running_mean", True):
            raise DimeError(
                f"{name}: {type(layer).__name__} keeps running statistics ({kept}). Each "
                "environment of a run has its own, so evaluations, a resumed run and an exported "
                "policy would see other numbers than training. Leave it out, or scale by fixed "
                "numbers (gymnasium.wrappers.TransformObservation, TransformReward; or set its "
                "statistics and then update_running_mean = False). See docs/environments.md."
            )
        if not isinstance(layer, gymnasium.Wrapper):
            return env
        layer = layer.env


def _running_statistics(layer: gymnasium.Env) -> str:
    """The attribute of this layer that looks like a RunningMeanStd; "" if none does."""
    for name, value in getattr(layer, "__dict__", {}).items():
        parts = value.values() if isinstance(value, dict) else (value,)
        if any(map(_looks_like_statistics, parts)):
            return name
    return ""


def _looks_like_statistics(value: Any) -> bool:
    """Whether it has what Gymnasium's RunningMeanStd has, and all others that we know of.

    Tables and series of pandas have methods of these names.
    """
    try:
        parts = [getattr(value, part, None) for part in ("mean", "var", "count")]
        updates = callable(getattr(value, "update", None))
    except Exception:  # whatever a property of somebody else's object raises
        return False
    return updates and not any(part is None or callable(part) for part in parts)
