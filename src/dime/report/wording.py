"""Numbers as people read them."""

import math
from collections.abc import Callable

from dime.training.listeners import return_text


def score_text(value: float, metric: str) -> str:
    """A score with the digits that matter.

    >>> [score_text(value, "return") for value in (12528.4, 945.23, 3.14159, -3e-6, float("nan"))]
    ['12,528', '945.2', '3.14', '-3e-06', 'not a number']
    >>> score_text(0.725, "success_rate")
    '0.72'
    """
    if not math.isfinite(value):
        return "not a number"
    if metric != "return":
        return f"{value:.2f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else return_text(value)


def steps_text(steps: float) -> str:
    """A number of env steps.

    >>> [steps_text(steps) for steps in (500, 24_000, 999_990, 1_234_567)]
    ['500', '24k', '1M', '1.23M']
    """
    rough = float(f"{steps:.3g}")
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if rough >= size:
            return f"{rough / size:g}{unit}"
    return f"{steps:.0f}"


def duration_text(seconds: float) -> str:
    """A time span.

    >>> [duration_text(seconds) for seconds in (4.2, 130, 7500, 200_000)]
    ['4.2 s', '2 min 10 s', '2 h 05 min', '2 d 07 h']
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02d} h"


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number with its noun.

    >>> counted(1, "seed"), counted(3, "seed"), counted(1200, "run")
    ('1 seed', '3 seeds', '1,200 runs')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def span_text(values: set[int], text: Callable[[int], str] = str) -> str:
    """One value, or the ends of several.

    >>> span_text({3}), span_text({10, 2, 4})
    ('3', '2 to 10')
    """
    low, high = min(values), max(values)
    return text(low) if low == high else f"{text(low)} to {text(high)}"
