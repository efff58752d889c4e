"""Films of the runs: at most one per algorithm and environment, inlined while there is room."""

import base64
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from dime.report.markup import EMPTY, Markup, join, tag
from dime.report.sources import Entry
from dime.report.states import environment_of, kind_of

_START = "data:video/mp4;base64,"


def films(entries: list[Entry]) -> dict[tuple[str, str], Path]:
    """One film per algorithm and environment: of seed 0, or else of the lowest seed."""
    chosen: dict[tuple[str, str], tuple[int, Path]] = {}
    for entry in entries:
        seeds = entry.progress.seeds
        if entry.video is None or not seeds:
            continue
        key, seed = (kind_of(entry), environment_of(entry)), seeds[0]  # films show the first seed
        if key not in chosen or seed < chosen[key][0]:
            chosen[key] = seed, entry.video
    return {key: file for key, (_, file) in chosen.items()}


def inlined(entries: list[Entry], room: int) -> Markup:
    """The films as part of the page, the smallest first, in at most `room` bytes."""
    found = films(entries)
    sizes = {key: _size(file) for key, file in found.items()}
    taken, left = set(), room
    for key in sorted(sizes, key=lambda key: sizes[key]):
        if sizes[key] <= left:
            left -= sizes[key]
            taken.add(key)
    left_out = [f"{kind} on {environment}" for kind, environment in found.keys() - taken]
    names = ", ".join(sorted(left_out))
    note = f"Left out, so that the file stays small: {names}." if left_out else ""
    return gallery({key: found[key] for key in found if key in taken}, _data_uri, note)


def linked(entries: list[Entry], root: Path) -> Markup:
    """The films as files that the live page's server hands out."""
    place = root.resolve()
    inside = {
        key: file for key, file in films(entries).items() if file.resolve().is_relative_to(place)
    }
    return gallery(inside, lambda file: f"/files/{_address(file, place)}", "")


def _address(file: Path, root: Path) -> str:
    return quote(file.resolve().relative_to(root).as_posix(), errors="surrogateescape")


def gallery(
    films: dict[tuple[str, str], Path], address: Callable[[Path], str], note: str
) -> Markup:
    """The films in a grid, each with its caption; nothing where there are none."""
    if not films and not note:
        return EMPTY
    shown = (
        tag(
            "figure",
            tag(
                "video",
                src=address(file),
                controls=True,
                muted=True,
                loop=True,
                preload="metadata",
                playsinline=True,
                aria_label=f"{kind} on {environment}",
            ),
            tag("figcaption", tag("strong", environment), tag("span", kind)),
        )
        for (kind, environment), file in films.items()
    )
    parts = [tag("div", *shown, class_="films")]
    return join([*parts, tag("p", note, class_="note")] if note else parts)


def _size(file: Path) -> int:
    """Bytes of the film inside the page: base64 takes four characters for three bytes."""
    return len(_START) + -(-file.stat().st_size // 3) * 4


def _data_uri(file: Path) -> str:
    return _START + base64.b64encode(file.read_bytes()).decode()
