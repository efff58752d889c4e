"""The report as one file, and as a page that `dime serve` shows to this machine alone."""

import base64
import datetime
import hashlib
import importlib.util
import json
import os
import re
import statistics
import threading
import webbrowser
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import dime
from dime.errors import DimeError, require
from dime.figures.curves import read_reference, span
from dime.figures.runs import RunDirs, folders_of, is_study
from dime.figures.style import writing
from dime.report.results import OFFICIAL, content_of, score_text, steps_text
from dime.report.sources import Entry, Reader, find_sources, stamp_of
from dime.training.records import write_bytes

MAX_BYTES = 20_000_000
"""Of a report; videos are left out if they would make it larger."""

_MARGIN = 100_000  # bytes, for the markup around the videos
_VIDEO_URI = "data:video/mp4;base64,"
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


def write_report(
    run_dirs: RunDirs, output: str | Path, *, reference: str | Path | None = None
) -> Path:
    """Writes a report on runs and studies as one HTML file, which opens without a network.

    Runs of the same environment and algorithm are pooled, as in the figures. Runs that failed, are
    not finished or cannot be read are listed with the reason.

    Args:
        run_dirs: folders of runs or studies.
        output: the file; ends in .html.
        reference: curves to draw beside them: "shipped" for the published ones of DIME, or a CSV
            file (`read_reference` says its columns).

    Returns:
        The file written.

    Raises:
        DimeError: a folder is neither run nor study, plotly or jinja2 is not installed, the
            reference cannot be read, or the file cannot be written.
    """
    path = Path(output)
    require(
        path.suffix.lower() in (".html", ".htm"),
        f"A report cannot be written as {path.name}. Choose a name ending in .html.",
    )
    page, published, folders = Page(), read_reference(reference), folders_of(run_dirs)
    require(bool(folders), "There is nothing to report on: name at least one run or study.")
    for folder in folders:
        require(
            is_study(folder) or (folder / "config.json").is_file(),
            f"{folder} is neither a run nor a study: it has no config.json and no study.json.",
        )
    sources = Reader().read(folders)
    content = content_of(sources, {}, published)
    text = page.render(content, {})
    if videos := videos_of(sources["entries"]):
        text = page.render(content, *_inlined(videos, MAX_BYTES - len(text) - _MARGIN))
    with writing(path):
        write_bytes(path, text)
    return path


class Page:
    """The template, with the style and the scripts that go into it.

    Raises:
        DimeError: plotly or jinja2 is not installed.
    """

    def __init__(self):
        plotly = importlib.util.find_spec("plotly")  # not imported: only its JavaScript is used
        if plotly is None or importlib.util.find_spec("jinja2") is None:
            raise DimeError("Reports need plotly and jinja2: pip install 'dime-rl[report]'")
        import jinja2

        environment = jinja2.Environment(
            autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
        )
        environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
        environment.filters |= {
            "score": score_text,
            "steps": steps_text,
            "duration": lambda seconds: datetime.timedelta(seconds=round(seconds)),
            "span": span,
            "median": statistics.median,
            "json": lambda config: json.dumps(config, indent=2),
        }
        environment.globals["official"] = OFFICIAL
        library = Path(str(plotly.origin)).with_name("package_data") / "plotly.min.js"
        self._scripts = [_harmless(library.read_text("utf-8")), _harmless(_asset("report.js"))]
        self._template = environment.from_string(_asset("report.html"))

    def render(
        self,
        content: dict[str, Any],
        videos: dict[tuple[str, str], str],
        left_out: Sequence[str] = (),
        version: str = "",
    ) -> bytes:
        """The whole page, in UTF-8: markup, style, scripts and data, and nothing from elsewhere.

        `videos` are addresses by algorithm and environment, `left_out` those that there was no room
        for. If its server has another `version`, the page reloads.
        """
        data = {"version": version, "charts": content["charts"], "looks": content["looks"]}
        text = self._template.render(
            content,
            videos=videos,
            left_out=left_out,
            data=data,
            policy=_policy(self._scripts, live=bool(version)),
            style=_asset("report.css"),
            scripts=self._scripts,
            written=f"{datetime.datetime.now():%Y-%m-%d %H:%M}",
            dime_version=dime.__version__,
        )
        return text.encode("utf-8", "replace")  # JSON may hold half a character


def _policy(scripts: list[str], *, live: bool) -> str:
    """The Content-Security-Policy: these scripts alone run, and nothing is fetched.

    A handler or script that came in with a run's texts would not run even if it were not escaped.
    """
    own, server = (" 'self'", "'self'") if live else ("", "'none'")
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        f"img-src data: blob:{own}; media-src data:{own}; font-src data:; "
        f"connect-src {server}; base-uri 'none'; form-action 'none'"
    )


def _harmless(script: str) -> str:
    r"""The script without what would end its element: `</` means `<\/` in a string."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--").replace("\r\n", "\n")


def _asset(name: str) -> str:
    return resources.files("dime.report").joinpath("assets", name).read_text("utf-8")


def videos_of(entries: list[Entry]) -> dict[tuple[str, str], Path]:
    """One video per algorithm and environment: of seed 0, or else of the lowest seed."""
    videos: dict[tuple[str, str], Path] = {}
    for entry in sorted(entries, key=lambda entry: entry.seeds[:1]):  # a video is of the first
        if entry.video and entry.seeds:
            videos.setdefault((entry.kind, entry.environment), entry.video)
    return videos


def _inlined(
    videos: dict[tuple[str, str], Path], room: int
) -> tuple[dict[tuple[str, str], str], list[str]]:
    """Addresses that contain the videos, the smallest first, in `room` bytes; those left out."""
    inlined = {}
    for key, file in sorted(videos.items(), key=lambda video: video[1].stat().st_size):
        # base64 takes four characters for three bytes
        room -= len(_VIDEO_URI) + -(-file.stat().st_size // 3) * 4
        if room >= 0:
            inlined[key] = _VIDEO_URI + base64.b64encode(file.read_bytes()).decode()
    left_out = [f"{kind} on {env}" for kind, env in sorted(videos.keys() - inlined)]
    return {key: inlined[key] for key in videos if key in inlined}, left_out


def serve(runs_dir: str | Path, port: int = 8420, *, open_browser: bool = False) -> None:
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
        raise DimeError(
            f"Port {port} is not available ({error}). Choose another one (--port {port + 1}), or 0 "
            "for any that is free."
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
                videos = {
                    key: f"/files/{quote(os.fsencode(file.relative_to(self.root).as_posix()))}"
                    for key, file in videos_of(sources["entries"]).items()
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
        path = self.path.partition("?")[0]
        file = self.server.find(path.removeprefix("/files/")) if path[:7] == "/files/" else None
        try:
            if path == "/":
                self._answer_page()
            elif file:
                self._answer_file(file)
            else:
                self.send_error(HTTPStatus.NOT_FOUND)
        except Exception as error:  # the next request may find the files in order again
            text = f"The report cannot be made ({type(error).__name__}: {error})."
            self._answer(text.encode("utf-8", "replace"), HTTPStatus.INTERNAL_SERVER_ERROR)

    do_HEAD = do_GET

    def _answer_page(self) -> None:
        version, page = self.server.page()
        headers = {"Content-Type": "text/html; charset=utf-8", "ETag": f'"{version}"'}
        same = self.headers.get("If-None-Match") == headers["ETag"]
        status = HTTPStatus.NOT_MODIFIED if same else HTTPStatus.OK
        self._answer(b"" if same else page, status, headers)

    def _answer_file(self, file: Path) -> None:
        """The file, or the part that is asked for: browsers seek in videos so."""
        content = file.read_bytes()
        headers = {"Content-Type": _TYPES[file.suffix], "Accept-Ranges": "bytes"}
        start, end = _range(self.headers.get("Range", ""), len(content))
        status = HTTPStatus.OK
        if end - start < len(content):
            status = HTTPStatus.PARTIAL_CONTENT
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        self._answer(content[start:end], status, headers)

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
        other = code == HTTPStatus.NOT_IMPLEMENTED
        status = HTTPStatus.METHOD_NOT_ALLOWED if other else HTTPStatus(code)
        headers = {"Allow": "GET, HEAD"} if other else {}
        self._answer(f"{status.phrase}\n".encode(), status, headers)

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the terminal quiet."""


def _range(header: str, size: int) -> tuple[int, int]:
    """The first and the one past the last byte that are asked for; all if that is unclear."""
    asked = re.fullmatch(r"bytes=([0-9]{1,18})-([0-9]{0,18})", header)
    if asked is None:
        return 0, size
    start, end = int(asked[1]), min(int(asked[2]) + 1 if asked[2] else size, size)
    return (start, end) if start < end else (0, size)
