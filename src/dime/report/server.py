"""The live page's server: this machine alone, reading alone."""

import errno
import re
import webbrowser
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from dime.errors import DimeError, require
from dime.report.live import LiveReport
from dime.report.page import chart_library

DEFAULT_PORT = 8420

_ADDRESS = "127.0.0.1"
_HOSTS = {"127.0.0.1", "localhost"}
_TYPES = {
    ".mp4": "video/mp4",
    ".png": "image/png",
    ".json": "application/json",
    ".jsonl": "text/plain; charset=utf-8",
}
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "frame-ancestors 'none'",
}


def serve(runs_dir: str | Path, port: int = DEFAULT_PORT, *, open_browser: bool = False) -> None:
    """Serves a live report of all runs and studies below a folder, until Ctrl-C.

    The page is at `http://127.0.0.1:PORT`, which other machines cannot reach; it follows the runs
    while they are training. Nothing can be changed through it.

    Args:
        runs_dir: the folder.
        port: where to listen; 0 for any that is free.
        open_browser: also open the page.

    Raises:
        DimeError: no such folder, plotly is not installed, or the port cannot be had.
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


class ReportServer(ThreadingHTTPServer):
    """Hands out the report of one folder, and files of that folder."""

    daemon_threads = True

    def __init__(self, root: Path, port: int, report: LiveReport):
        self.root = root.resolve()
        self.report = report
        super().__init__((_ADDRESS, port), Handler)

    def handle_error(self, request, client_address) -> None:
        """Says nothing: a reader who closes the page in the middle of an answer is no error."""


def make_server(runs_dir: str | Path, port: int) -> ReportServer:
    """The server, listening; `serve` says the arguments and errors."""
    root = Path(runs_dir)
    require(root.is_dir(), f"{root} is no folder. Name the one that your runs are in.")
    report = LiveReport(root, chart_library())
    require(0 <= port < 2**16, f"port is {port}; it must be 0 to 65535.")
    try:
        return ReportServer(root, port, report)
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had ({error})"
        raise DimeError(
            f"Port {port} {why}. Choose another one (--port {port + 1}), or 0 for any that is free."
        ) from error


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: ReportServer  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version, sys_version = "dime", ""
    timeout = 60

    def do_GET(self) -> None:
        """The page, its news, or a file."""
        if not self._is_for_us():
            self._refuse(HTTPStatus.FORBIDDEN)
            return
        try:
            url = urlsplit(self.path)
        except ValueError:  # as http://[
            self._refuse(HTTPStatus.BAD_REQUEST)
            return
        try:
            self._route(url)
        except ConnectionError:
            raise  # the reader has gone
        except Exception as error:  # the next request may find the files in order again
            text = f"The report cannot be made ({type(error).__name__}: {error})."
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            self._answer(text.encode("utf-8", "replace"), "text/plain; charset=utf-8", status)

    do_HEAD = do_GET

    def _route(self, url: SplitResult) -> None:
        if url.path == "/":
            self._answer(self.server.report.page(), "text/html; charset=utf-8")
        elif url.path == "/data":
            self._answer_news(parse_qs(url.query).get("have", [""])[0])
        elif url.path.startswith("/files/"):
            self._answer_file(url.path.removeprefix("/files/"))
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

    def _is_for_us(self) -> bool:
        """Whether the request names this machine: a page elsewhere whose name leads here does not.

        Otherwise a web site could have its name resolve to 127.0.0.1 and read the runs.
        """
        hosts = self.headers.get_all("Host", [])
        host = hosts[0].rpartition(":") if len(hosts) == 1 else ("", "", "")
        name = host[0] if host[2].isdigit() else host[2] if not host[1] else ""
        return name.lower() in _HOSTS

    def _answer_news(self, have: str) -> None:
        news = self.server.report.news(have)
        if news is None:
            self._refuse(HTTPStatus.NO_CONTENT)
        else:
            self._answer(news, "application/json")

    def _answer_file(self, name: str) -> None:
        file = find_file(self.server.root, name)
        if file is None:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        content = file.read_bytes()
        start, end = _range(self.headers.get("Range", ""), len(content))
        partial = (start, end) != (0, len(content))
        extra = {"Accept-Ranges": "bytes"}
        if partial:
            extra["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        status = HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK
        self._answer(content[start:end], _TYPES[file.suffix], status, extra)

    def _answer(
        self,
        content: bytes,
        kind: str,
        status: HTTPStatus = HTTPStatus.OK,
        extra: dict[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        length = {"Content-Type": kind, "Content-Length": str(len(content))}
        for key, value in (_HEADERS | length | (extra or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _refuse(self, status: HTTPStatus) -> None:
        extra = {"Allow": "GET, HEAD"} if status == HTTPStatus.METHOD_NOT_ALLOWED else {}
        content = b"" if status == HTTPStatus.NO_CONTENT else f"{status.phrase}\n".encode()
        self._answer(content, "text/plain; charset=utf-8", status, extra)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers what no method here answers; other methods than GET and HEAD are not allowed."""
        not_implemented = code == HTTPStatus.NOT_IMPLEMENTED
        self._refuse(HTTPStatus.METHOD_NOT_ALLOWED if not_implemented else HTTPStatus(code))

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the terminal quiet."""


def find_file(root: Path, name: str) -> Path | None:
    """The file of this percent-encoded name below `root`; None where it may not be handed out.

    Links are followed before it is checked that the file is inside, and of a known kind.
    """
    try:
        file = (root / unquote(name, errors="surrogateescape")).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        return None
    known = file.is_relative_to(root) and file.suffix in _TYPES
    return file if known and file.is_file() else None


def _range(header: str, size: int) -> tuple[int, int]:
    """The first and the one past the last byte that are asked for; all where that is unclear.

    >>> _range("bytes=2-4", 10), _range("bytes=7-", 10), _range("bytes=20-", 10), _range("", 10)
    ((2, 5), (7, 10), (0, 10), (0, 10))
    """
    asked = re.fullmatch(r"bytes=([0-9]{1,18})-([0-9]{0,18})", header)
    if asked is None:
        return 0, size
    start, end = int(asked[1]), min(int(asked[2]) + 1 if asked[2] else size, size)
    return (start, end) if start < end else (0, size)
