"""The report of a folder that changes: made again when its files do, and told piece by piece."""

import datetime
import hashlib
import json
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from dime.report.content import Content, content_of
from dime.report.markup import embedded_json
from dime.report.page import page
from dime.report.results import Analyst
from dime.report.sources import Reader, Stamp, find_sources, stamp_of
from dime.report.videos import linked

_NUM_REMEMBERED = 20  # versions that a page may have and be told the difference to

Digests = dict[str, dict[str, str]]
"""By kind of piece ("blocks", "figures", "charts") and name, what tells its content."""


class LiveReport:
    """Runs and studies below a folder, as a page and as news for a page that is open."""

    def __init__(self, root: Path, library: str):
        self._root = root
        self._library = library
        self._reader, self._analyst = Reader(), Analyst()
        self._lock = threading.Lock()
        self._stamp: Stamp | None = None
        self._content: Content | None = None
        self._version = ""
        self._remembered: OrderedDict[str, tuple[Digests, list[dict[str, str]]]] = OrderedDict()

    def page(self) -> bytes:
        """The page as it is now."""
        with self._lock:
            content = self._fresh()
            made = f"{datetime.datetime.now():%Y-%m-%d %H:%M}"
            return page(content, made, self._library, live=True, version=self._version)

    def news(self, have: str) -> bytes | None:
        """What is new for a page of version `have`, as JSON; None where nothing is.

        A page of a version that is not remembered is told everything.
        """
        with self._lock:
            content = self._fresh()
            if have == self._version:
                return None
            before, looks = self._remembered.get(have, ({}, None))
            news: dict[str, Any] = {
                kind: {
                    name: piece
                    for name, piece in pieces.items()
                    if before.get(kind, {}).get(name) != _digest(piece)
                }
                for kind, pieces in _pieces(content).items()
            }
            news |= {
                "version": self._version,
                "title": content.title,
                "order": list(content.figures),
                "looks": content.looks,
                "restyled": looks != content.looks,
            }
            return embedded_json(news).encode("utf-8", "replace")

    def _fresh(self) -> Content:
        paths = find_sources(self._root)
        stamp = tuple(stamp_of(path) for path in paths)
        if self._content is None or stamp != self._stamp:
            sources = self._reader.read(paths, self._root)
            films = linked(sources.entries, self._root)
            self._content = content_of(sources, self._analyst, None, films)
            self._stamp = stamp
            digests = {
                kind: {name: _digest(piece) for name, piece in pieces.items()}
                for kind, pieces in _pieces(self._content).items()
            }
            self._version = _digest(digests)
            self._remembered[self._version] = digests, self._content.looks
            while len(self._remembered) > _NUM_REMEMBERED:
                self._remembered.popitem(last=False)
        return self._content


def _pieces(content: Content) -> dict[str, dict[str, Any]]:
    return {"blocks": content.blocks, "figures": content.figures, "charts": content.charts}


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
