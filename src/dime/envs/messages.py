"""What is said while an environment is made: unknown ids, and Gymnasium's notices, once each."""

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator

_logger = logging.getLogger("dime.envs")
_shown: set[str] = set()
_COLOUR = re.compile(r"\x1b\[\d+m")


class UnknownIdError(LookupError):
    """A suite has no environment of this name; the registry adds the nearest ones."""


@contextlib.contextmanager
def tidy_warnings() -> Iterator[None]:
    """Logs the notice that a version is out of date, once per process, and drops other noise.

    Noise: deprecations inside the suites, and Gymnasium's own remarks (float32 bounds, ...).
    Warnings of the environment itself are passed on.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        text = _COLOUR.sub("", str(warning.message))
        from_gymnasium = text.startswith("WARN: ")
        if from_gymnasium and "is out of date" in text:
            _show_once(text.removeprefix("WARN: "))
        elif not from_gymnasium and not issubclass(warning.category, DeprecationWarning):
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


def _show_once(text: str) -> None:
    if text not in _shown:
        _shown.add(text)
        _logger.warning("Gymnasium: %s", text)
