"""The one error type for everything a user can mend, and the ranges of configs' fields."""

import difflib
import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints


class DimeError(Exception):
    """What was asked cannot be done; the message says why, with the value, and what to do instead.

    The command line prints the message alone and exits with status 2.
    """


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


def at_least(minimum: float) -> Callable[[object, str], None]:
    """The check of one field by `require_at_least`."""
    return lambda config, name: require_at_least(config, minimum, name)


def within(contains: Callable[[float], bool], description: str) -> Callable[[object, str], None]:
    """The check that a field's value is in a range, which an error names by `description`."""

    def check(config: object, name: str) -> None:
        value = getattr(config, name)
        require(contains(value), f"{name} is {value!r}; it must be {description}.")

    return check


require_positive = within(lambda value: 0.0 < value < math.inf, "a finite number above 0")

Whole = Annotated[int, at_least(0)]
Count = Annotated[int, at_least(1)]
NonNegative = Annotated[float, at_least(0.0)]
Positive = Annotated[float, require_positive]
Finite = Annotated[float, within(math.isfinite, "finite")]
Fraction = Annotated[float, within(lambda value: 0.0 <= value < 1.0, "in [0, 1)")]
Share = Annotated[float, within(lambda value: 0.0 <= value <= 1.0, "in [0, 1]")]
Rate = Annotated[float, within(lambda value: 0.0 < value <= 1.0, "in (0, 1]")]


@cache
def _checks_of(kind: type) -> list[tuple[Callable[[object, str], None], str]]:
    checks = []
    for name, hint in get_type_hints(kind, include_extras=True).items():
        checks += [(check, name) for check in getattr(hint, "__metadata__", ())]
        if get_origin(hint) is Literal:
            choices = get_args(hint)
            checks.append((within(choices.__contains__, f"one of: {', '.join(choices)}"), name))
    return checks


class Checked:
    """Base of configs: refuses values outside the ranges that the fields' types carry."""

    def __post_init__(self):
        for check, name in _checks_of(type(self)):
            check(self, name)


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
