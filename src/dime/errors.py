"""The one error type for everything a user can mend."""

import difflib
from collections.abc import Iterable
from typing import Any


class DimeError(Exception):
    """What was asked cannot be done; the message says why, with the value, and what to do instead.

    The command line prints the message alone and exits with status 2.
    """


class Checked:
    """Base of configs: each checks its own fields in `__post_init__` after its bases' fields."""

    def __post_init__(self):
        pass


def require(condition: bool, message: str) -> None:
    """Raises `DimeError(message)` unless the condition holds."""
    if not condition:
        raise DimeError(message)


def require_at_least(config: object, minimum: float, *names: str) -> None:
    """Refuses a config whose fields `names` are below `minimum`, naming field and value.

    A whole `minimum` asks for whole numbers.

    >>> from types import SimpleNamespace
    >>> require_at_least(SimpleNamespace(batch_size=0), 1, "batch_size")
    Traceback (most recent call last):
    ...
    dime.errors.DimeError: batch_size is 0; it must be a whole number, at least 1.
    """
    for name in names:
        value = getattr(config, name)
        whole = not isinstance(minimum, int) or isinstance(value, int)
        kind = "" if isinstance(minimum, float) else "a whole number, "
        message = f"{name} is {value}; it must be {kind}at least {minimum}."
        require(whole and minimum <= value < float("inf"), message)
        if isinstance(minimum, int):
            require(value < 2**31, f"{name} is {value}; it must be below 2147483648.")


def require_positive(config: object, *names: str) -> None:
    """Refuses a config whose fields `names` are not finite numbers above 0."""
    for name in names:
        value = getattr(config, name)
        message = f"{name} is {value}; it must be a finite number above 0."
        require(0.0 < value < float("inf"), message)


def require_unit_interval(config: object, *names: str) -> None:
    """Refuses a config whose fields `names` are outside [0, 1)."""
    for name in names:
        value = getattr(config, name)
        require(0.0 <= value < 1.0, f"{name} is {value}; it must be in [0, 1).")


def require_rate(config: object, *names: str) -> None:
    """Refuses a config whose fields `names` are outside (0, 1]."""
    for name in names:
        value = getattr(config, name)
        require(0.0 < value <= 1.0, f"{name} is {value}; it must be in (0, 1].")


def describe(error: BaseException) -> str:
    """Type and text of an error of any kind; also where its text cannot be made.

    >>> describe(ValueError("no"))
    'ValueError: no'
    """
    try:
        return f"{type(error).__name__}: {error}".removesuffix(": ")
    except Exception:  # an error's own __str__ may fail
        return f"{type(error).__name__} (its text cannot be made)"


def choose(kind: str, name: Any, known: Iterable[str]) -> str:
    """The name if it is known; otherwise `DimeError` with the nearest ones.

    >>> choose("preset", "labtop", ["paper", "laptop"])
    Traceback (most recent call last):
    ...
    dime.errors.DimeError: There is no preset 'labtop'; nearest: laptop. There are: laptop, paper.
    """
    known = sorted(known)
    if name in known:
        return name
    close = difflib.get_close_matches(str(name).lower(), known, n=3, cutoff=0.5)
    nearest = f"; nearest: {', '.join(close)}" if close else ""
    raise DimeError(f"There is no {kind} '{name}'{nearest}. There are: {', '.join(known)}.")
