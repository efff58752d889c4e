"""What the JSON files of a checkpoint may hold: a check for every field, nothing assumed.

A right SHA-256 says that a file is as it was written, not that this package wrote it.
"""

import math
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, TypeGuard

from dime.envs.spaces import Spaces
from dime.errors import DimeError

Check = Callable[[Any], bool]

_COUNTERS = 2**31  # counters are int32 in the compiled programs, and seeds below it
_SIZES = 2**63
RECORD_FILES = {"metrics.jsonl", "evaluations.jsonl"}


def is_whole(value: Any, below: int = _COUNTERS) -> TypeGuard[int]:
    """A whole number from 0 on; `True` is none."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < below


def is_number(value: Any) -> bool:
    """A finite number."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _SIZES


def _is_size(value: Any) -> bool:
    return is_whole(value, _SIZES)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _table_of(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _with_fields(fields: Mapping[str, Check]) -> Check:
    return lambda value: isinstance(value, dict) and not misfit(value, fields)


def misfit(
    content: Mapping[str, Any],
    fields: Mapping[str, Check],
    later: Mapping[str, Check] | None = None,
) -> str:
    """The first of these fields that is missing or not as its check wants it; "" if none is.

    Those of `later` may be missing: older checkpoints lack them.
    """
    later = {name: fits for name, fits in (later or {}).items() if name in content}
    wrong = (
        name
        for name, fits in {**fields, **later}.items()
        if name not in content or not fits(content[name])
    )
    return next(wrong, "")


def are_seeds(value: Any) -> bool:
    """A list of at least one seed, none of them twice."""
    return _list_of(is_whole)(value) and 0 < len(value) == len(set(value))


def segment_name(start: int, stop: int) -> str:
    """The file of transitions [start, stop)."""
    return f"{start:09d}-{stop:09d}.safetensors"


_DIGESTS: dict[str, Check] = {"sha256": _is_digest, "bytes": _is_size}
_SEGMENT: dict[str, Check] = {"start": is_whole, "stop": is_whole, "file": _is_text, **_DIGESTS}


def _are_segments(value: Any) -> bool:
    """Segments with the names that follow from their numbers, each beginning where one ends."""
    return (
        _list_of(_with_fields(_SEGMENT))(value)
        and all(one["file"] == segment_name(one["start"], one["stop"]) for one in value)
        and all(one["start"] < one["stop"] for one in value)
        and all(one["stop"] == other["start"] for one, other in pairwise(value))
    )


def _are_files(value: Any) -> bool:
    names = {"state.safetensors", "episodes.safetensors", "run.json"}
    return _table_of(_with_fields(_DIGESTS))(value) and set(value) == names


MANIFEST: dict[str, Check] = {"files": _are_files, "replay": _are_segments}


def _are_spaces(value: Any) -> bool:
    try:
        Spaces.from_json(value)
    except DimeError:
        return False
    return True


_EPISODE: dict[str, Check] = {
    "number": is_whole,
    "episode_return": is_number,
    "last_return": _or_none(is_number),
    "last_length": _or_none(is_whole),
}
_FAILURE: dict[str, Check] = {"env_step": is_whole, "reason": _is_text}

RUN: dict[str, Check] = {
    "env_step": is_whole,
    "updates": is_whole,
    "seeds": are_seeds,
    "spaces": _are_spaces,
    "episodes": _list_of(_with_fields(_EPISODE)),
    "last_evaluation_step": _or_none(is_whole),
    "record_bytes": lambda value: _table_of(_is_size)(value) and set(value) == RECORD_FILES,
    "wall_time_s": is_number,
    "last_evaluation": _table_of(_table_of(is_number)),
    "failed_seeds": _table_of(_with_fields(_FAILURE)),
}


def _is_metric(value: Any) -> bool:
    """A number, or lists of numbers."""
    return all(map(_is_metric, value)) if isinstance(value, list) else is_number(value)


_RUN_LATER: dict[str, Check] = {
    "env_restarts": _table_of(is_whole),
    "unrepeatable": _or_none(_is_text),
    "learnt_env_step": is_whole,
    "on_device": lambda value: value is True,
    "metrics": _or_none(_table_of(_list_of(_is_metric))),
}


def run_misfit(run: Any) -> str:
    """The first field of a run.json that is not as the loop left it; "" if all are."""
    if not isinstance(run, dict):
        return "everything"
    wrong = misfit(run, RUN, _RUN_LATER)
    num_seeds = len(run["seeds"]) if not wrong else 0
    if not wrong and len(run["episodes"]) != num_seeds:
        return "episodes"
    if not wrong and any(len(value) != num_seeds for value in (run.get("metrics") or {}).values()):
        return "metrics"
    return wrong
