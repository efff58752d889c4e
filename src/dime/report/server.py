"""The page of `dime serve`: only for this machine, and read-only."""

import errno
import hashlib
import os
import re
import threading
import webbrowser
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from dime.errors import DimeError, require
from dime.report.report import Page, content_of, videos_of
from dime.report.sources import Reader, find_sources, stamp_of

DEFAULT_PORT = 8420

_ADDRESS = "127.0.0.1"
_HOST = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]+)?", re.IGNORECASE)
_TYPES = {".mp4": "video/mp4", ".png": "image/png", ".json": "application/json"} | {
    ".jsonl": "text/plain; charset=utf-8"
}
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "frame-ancestors 'none'",
}


def serve(runs_dir: str | Path, port: int = DEFAULT_PORT, *, open_browser: bool = False) -> None:
    """Serves a report of all runs and studies below a folder, until Ctrl-C.

    The page is at `http://127.0.0.1:PORT`, which other machines cannot reach; it reloads when the
    records of a run have changed. Nothing can be changed through it.

    Args:
        runs_dir: the folder.
        port: the port to listen on; 0 for any free one.
        open_browser: also open the page.

    Raises:
        DimeError: no such folder, plotly or jinja2 is not installed, or the port is not available.
    """
    with make_server(runs_dir, port) as server:
        address = f"http://{_ADDRESS}:{server.server_port}"
        print(f"Live report of {runs_dir} at {address} (Ctrl-C ends it)", flush=True)
        if open_browser:
            webbrowser.open(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def make_server(runs_dir: str | Path, port: int) -> "ReportServer":
    """The server, listening; `serve` says the arguments and errors."""
    root = Path(runs_dir)
    require(root.is_dir(), f"{root} is no folder. Name the one that your runs are in.")
    require(0 <= port < 2**16, f"port is {port}; it must be 0 to 65535.")
    try:
        return ReportServer(root.resolve(), port)
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"is not available ({error})"
        raise DimeError(
            f"Port {port} {why}. Choose another one (--port {port + 1}), or 0 for any that is free."
        ) from error


class ReportServer(ThreadingHTTPServer):
    """Hands out the report on everything below a folder, and files of that folder."""

    daemon_threads = True

    def __init__(self, root: Path, port: int):
        self.root = root
        self._template, self._reader, self._known = Page(), Reader(), {}
        self._lock = threading.Lock()
        self._version, self._page = "", b""
        super().__init__((_ADDRESS, port), Handler)

    def handle_error(self, request, client_address) -> None:
        """Says nothing: a reader who closes the page in the middle of an answer is no error."""

    def page(self) -> tuple[str, bytes]:
        """A version, and the page as it is now; rendered again only if files have changed."""
        with self._lock:
            paths = find_sources(self.root)
            stamp = repr([stamp_of(path) for path in paths]).encode("utf-8", "replace")
            version = hashlib.sha256(stamp).hexdigest()[:16]
            if version != self._version:
                sources = self._reader.read(paths, self.root)
                content = content_of(sources, self._known)
                files = {key: file.resolve() for key, file in videos_of(sources.entries).items()}
                videos = {
                    key: f"/files/{quote(os.fsencode(file.relative_to(self.root).as_posix()))}"
                    for key, file in files.items()
                    if file.is_relative_to(self.root)
                }
                self._page = self._template.render(content, videos, version=version)
                self._version = version
            return self._version, self._page

    def find(self, name: str) -> Path | None:
        """The file of this percent-encoded name; None if it may not be handed out.

        Links are followed before it is checked that the file is inside, and of a known kind.
        """
        try:
            file = (self.root / unquote(name, errors="surrogateescape")).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            return None
        known = file.is_relative_to(self.root) and file.suffix in _TYPES
        return file if known and file.is_file() else None


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: ReportServer  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version, sys_version = "dime", ""
    timeout = 60

    def do_GET(self) -> None:
        """The page or a file.

        A request must name this machine. Otherwise a web site could have its name resolve to
        127.0.0.1 and read the runs.
        """
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        try:
            path = urlsplit(self.path).path
        except ValueError:  # as http://[
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        try:
            self._route(path)
        except ConnectionError:
            raise  # the reader has gone
        except Exception as error:  # the next request may find the files in order again
            text = f"The report cannot be made ({type(error).__name__}: {error})."
            self._answer(text.encode("utf-8", "replace"), HTTPStatus.INTERNAL_SERVER_ERROR)

    do_HEAD = do_GET

    def _route(self, path: str) -> None:
        if path == "/":
            version, page = self.server.page()
            headers = {"Content-Type": "text/html; charset=utf-8", "ETag": f'"{version}"'}
            same = self.headers.get("If-None-Match") == headers["ETag"]
            status = HTTPStatus.NOT_MODIFIED if same else HTTPStatus.OK
            self._answer(b"" if same else page, status, headers)
        elif path.startswith("/files/") and (
            file := self.server.find(path.removeprefix("/files/"))
        ):
            self._answer_file(file)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _answer_file(self, file: Path) -> None:
        """The file, or the part that is asked for: browsers seek in videos so."""
        content = file.read_bytes()
        headers = {"Content-Type": _TYPES[file.suffix], "Accept-Ranges": "bytes"}
        start, end = _range(self.headers.get("Range", ""), len(content))
        if (start, end) == (0, len(content)):
            self._answer(content, HTTPStatus.OK, headers)
        else:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
            self._answer(content[start:end], HTTPStatus.PARTIAL_CONTENT, headers)

    def _answer(
        self, content: bytes, status: HTTPStatus, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        text = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(content))}
        for key, value in (_HEADERS | text | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers what is not served; other methods than GET and HEAD are not allowed."""
        status = HTTPStatus(code)
        if status == HTTPStatus.NOT_IMPLEMENTED:
            status = HTTPStatus.METHOD_NOT_ALLOWED
        allow = {"Allow": "GET, HEAD"} if status == HTTPStatus.METHOD_NOT_ALLOWED else {}
        self._answer(f"{status.phrase}\n".encode(), status, allow)

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the terminal quiet."""


def _range(header: str, size: int) -> tuple[int, int]:
    """The first and the one past the last byte that are asked for; all if that is unclear.

    >>> _range("bytes=2-4", 10), _range("bytes=7-", 10), _range("bytes=20-", 10), _range("", 10)
    ((2, 5), (7, 10), (0, 10), (0, 10))
    """
    asked = re.fullmatch(r"bytes=([0-9]{1,18})-([0-9]{0,18})", header)
    if asked is None:
        return 0, size
    start, end = int(asked[1]), min(int(asked[2]) + 1 if asked[2] else size, size)
    return (start, end) if start < end else (0, size)
