"""What each algorithm looks like in every chart: colour, marker and dashes."""

from typing import NamedTuple

from dime.figures.curves import Panel
from dime.figures.figures import curve_style, variants_of

_SYMBOLS = {
    "o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down",
    "P": "cross", "X": "x", "<": "triangle-left", ">": "triangle-right", "h": "hexagon",
    "p": "pentagon",
}  # fmt: skip
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


class Look(NamedTuple):
    """The name of an algorithm and variant, and how it is drawn."""

    kind: str
    colour: str
    symbol: str
    dash: str


def looks_of(panels: list[Panel]) -> list[Look]:
    """One look per algorithm and variant; colours and markers are those of the figures."""
    variants = variants_of(panels)
    curves = {curve.kind: curve for panel in panels for curve in panel.curves}
    order = [
        f"{algorithm} {variant}".strip()
        for algorithm in variants
        for variant in variants[algorithm]
    ]
    looks = []
    for place, kind in enumerate(order):
        style = curve_style(curves[kind], variants)
        symbol = _SYMBOLS[style["marker"]]
        looks.append(Look(kind, style["color"], symbol, _DASHES[place % len(_DASHES)]))
    return looks
