"""HTML that cannot be injected into: text is escaped unless it was made by these functions."""

import html
import json
import math
from collections.abc import Iterable
from typing import Any


class Markup(str):
    """Text that is HTML already."""


EMPTY = Markup()


def escape(text: object) -> Markup:
    """The text as HTML; markup stays what it is.

    >>> escape("<b>"), escape(Markup("<b>"))
    ('&lt;b&gt;', '<b>')
    """
    return text if isinstance(text, Markup) else Markup(html.escape(str(text)))


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """An element; attributes whose value is None or False are left out, True has no value.

    A trailing underscore of an attribute's name is dropped, others become hyphens.

    >>> tag("p", "a < b", class_="note", data_key=3, hidden=True)
    '<p class="note" data-key="3" hidden>a &lt; b</p>'
    """
    written = "".join(
        f" {key}" if value is True else f' {key}="{html.escape(str(value))}"'
        for key, value in (
            (attribute.rstrip("_").replace("_", "-"), value)
            for attribute, value in attributes.items()
        )
        if value is not None and value is not False
    )
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[object]) -> Markup:
    """The children one after the other."""
    return Markup("".join(map(escape, children)))


def table(
    head: Iterable[object], rows: Iterable[Iterable[object]], label: str, class_: str = ""
) -> Markup:
    """A table in a box of its own that scrolls; the first cell of each row names the row."""
    header = tag("tr", *(_cell(cell, "th", scope="col") for cell in head))
    body = []
    for first, *others in rows:
        cells = [_cell(first, "th", scope="row"), *(_cell(cell, "td") for cell in others)]
        body.append(tag("tr", *cells))
    content = tag("table", tag("thead", header), tag("tbody", *body))
    classes = f"scroll {class_}".strip()
    return tag("div", content, class_=classes, tabindex=0, role="region", aria_label=label)


def _cell(cell: object, name: str, **attributes: object) -> Markup:
    """The cell itself where it is one already."""
    if isinstance(cell, Markup) and cell.startswith(("<td", "<th")):
        return cell
    return tag(name, cell, **attributes)


def fold(summary: object, *children: object, key: str) -> Markup:
    """A part that is closed at first; `key` tells it from others when the page is renewed."""
    return tag("details", tag("summary", summary), *children, data_key=key)


def embedded_json(content: Any) -> str:
    r"""JSON that can stand in a script element whatever strings are in it.

    >>> embedded_json({"name": "</script>"})
    '{"name":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def rounded(value: float, digits: int = 6) -> float | None:
    """The number to so many significant digits; None where it is not finite.

    >>> rounded(1234.56789), rounded(float("nan"))
    (1234.57, None)
    """
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None
