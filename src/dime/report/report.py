"""Writing the report: what the template `assets/report.html` shows, as one file."""

import base64
import datetime
import hashlib
import importlib.util
import json
import shlex
import statistics
from collections import defaultdict
from collections.abc import Iterable
from importlib import resources
from pathlib import Path, PurePath
from typing import Any

from matplotlib.ticker import EngFormatter

import dime
from dime.errors import DimeError, require
from dime.figures.curves import Reference, counted, read_reference, span
from dime.figures.learning import learning_caption
from dime.figures.runs import RunDirs, flatten, folders_of, is_study
from dime.figures.style import METRIC_LABELS, writing
from dime.report.results import (
    OFFICIAL,
    Known,
    chart_data,
    looks_of,
    results_of,
    score_table,
    score_text,
)
from dime.report.sources import Entry, Reader, Sources, listed
from dime.training.listeners import duration
from dime.training.records import write_bytes

MAX_BYTES = 20_000_000
"""Of a report; videos are left out if they would make it larger."""

_MARGIN = 100_000  # bytes, for the markup around the videos
_SUFFIXES = {".html", ".htm"}
_NO_SETTINGS = {"env", "algorithm", "training.seeds"}
_VIDEO_URI = "data:video/mp4;base64,"


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
        path.suffix.lower() in _SUFFIXES,
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
    text = page.render(content)
    if videos := videos_of(sources.entries):
        inlined, left_out = _inlined(videos, MAX_BYTES - len(text) - _MARGIN)
        text = page.render(content, inlined, left_out)
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
            "duration": duration,
            "counted": counted,
            "span": span,
            "listed": listed,
            "median": statistics.median,
            "json": lambda config: json.dumps(config, indent=2),
            "utc": lambda s: f"{datetime.datetime.fromtimestamp(s, datetime.UTC):%Y-%m-%d %H:%M}",
        }
        environment.globals["official"] = OFFICIAL
        library = Path(str(plotly.origin)).with_name("package_data") / "plotly.min.js"
        self._scripts = [_harmless(library.read_text("utf-8")), _harmless(_asset("report.js"))]
        self._template = environment.from_string(_asset("report.html"))

    def render(
        self,
        content: dict[str, Any],
        videos: dict[tuple[str, str], str] | None = None,
        left_out: list[str] | None = None,
        *,
        version: str = "",
    ) -> bytes:
        """The whole page, in UTF-8: markup, style, scripts and data, and nothing from elsewhere.

        Args:
            content: of `content_of`.
            videos: addresses by algorithm and environment.
            left_out: videos that there was no room for.
            version: of a page that reloads when its server has another one; "" for a file, which
                may not ask anyone for anything.
        """
        data = {"version": version, "charts": content["charts"], "looks": content["looks"]}
        text = self._template.render(
            content,
            videos=videos or {},
            left_out=left_out or [],
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


def content_of(
    sources: Sources, known: Known, reference: Reference | None = None
) -> dict[str, Any]:
    """What the template needs of the records: tables, charts' data and captions, by name."""
    results = results_of((entry.run for entry in sources.entries if entry.run), known)
    panels = [result for result in results if not result.problem]
    modes = list(dict.fromkeys(curve.mode for panel in panels for curve in panel.curves))
    entries = sources.entries
    starts = [(entry.name, start) for entry in entries for start in entry.starts]
    times = sorted(str(start["time"])[:10] for _, start in starts if "time" in start)
    return {
        "studies": sources.studies,
        "entries": entries,
        "problems": sources.problems,
        "results": results,
        "total_steps": sum((e.env_step or 0) * len(e.seeds) for e in entries),
        "dates": [times[0], times[-1]] if times else [],
        "metrics": METRIC_LABELS,
        "charts": {panel.environment: chart_data(panel, reference) for panel in panels},
        "caption": learning_caption(panels, reference) if panels else ["No curves yet."],
        "looks": looks_of(panels),
        "reference": reference,
        "scores": {
            mode: score_table(panels, mode) for mode in [OFFICIAL] * (len(modes) > 1) + modes
        },
        "kinds": list(dict.fromkeys(entry.kind for entry in entries if entry.config)),
        "settings": _differing_settings(entries),
        "configs": _grouped((_config_text(entry), entry) for entry in entries if entry.config),
        "paces": _grouped(((e.kind, _machine(e)), e) for e in entries if e.pace),
        "commands": _grouped((_command(start), name) for name, start in starts if _command(start)),
        "versions": _grouped((_versions(start), name) for name, start in starts),
    }


def _differing_settings(entries: list[Entry]) -> dict[str, dict[str, list[str]]]:
    """By name and by kind, the values of the settings that differ between or within kinds."""
    values: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    kinds = {entry.kind for entry in entries if entry.config}
    for entry in entries:
        for name, value in flatten(entry.config).items():
            seen = values[name.removeprefix("settings.")][entry.kind]
            text = value if isinstance(value, str) else json.dumps(value)
            if name not in _NO_SETTINGS and text not in seen:
                seen.append(text)

    def same(of: dict[str, list[str]]) -> bool:
        return all(len(seen) < 2 for seen in of.values()) and (
            len({tuple(of.get(kind, [])) for kind in kinds}) == 1
        )

    return {name: of for name, of in sorted(values.items()) if not same(of)}


def _config_text(entry: Entry) -> str:
    """The config without its seeds: what runs that are listed together have in common."""
    config = entry.config
    if isinstance(training := config.get("training"), dict):
        config = config | {"training": training | {"seeds": None}}
    return json.dumps(config, sort_keys=True)


def _machine(entry: Entry) -> str:
    start = entry.last_start
    return " · ".join(str(start[key]) for key in ("device", "platform") if key in start) or "–"


def _command(start: dict[str, Any]) -> str:
    """As it was typed, without the program's folder; "" for a worker of a sweep."""
    words = start.get("command")
    if not isinstance(words, list) or not words or str(words[0]).endswith("default_worker.py"):
        return ""
    program, *arguments = map(str, words)
    return shlex.join([PurePath(program).name, *arguments])


def _versions(start: dict[str, Any]) -> tuple[str, ...]:
    """Versions, commit and machine."""
    libraries = start.get("versions")
    named = libraries.items() if isinstance(libraries, dict) else ()
    return (
        *(str(start.get(key) or "–") for key in ("dime", "git_commit", "python", "platform")),
        f"{start.get('device', '–')} ({start.get('backend', '–')})",
        ", ".join(f"{name} {version}" for name, version in named),
    )


def _grouped(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, list[Any]]:
    """The second of each pair by the first, each once."""
    groups: dict[Any, list[Any]] = defaultdict(list)
    for key, value in pairs:
        if value not in groups[key]:
            groups[key].append(value)
    return groups


def videos_of(entries: list[Entry]) -> dict[tuple[str, str], Path]:
    """One video per algorithm and environment: of seed 0, or else of the lowest seed."""
    chosen: dict[tuple[str, str], tuple[int, Path]] = {}
    for entry in entries:
        if entry.video and entry.seeds:
            key, seed = (entry.kind, entry.environment), entry.seeds[0]  # a video is of the first
            if key not in chosen or seed < chosen[key][0]:
                chosen[key] = seed, entry.video
    return {key: file for key, (_, file) in chosen.items()}


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


def steps_text(steps: float) -> str:
    """A number of env steps.

    >>> [steps_text(steps) for steps in (500, 24_000, 999_990, 1_234_567)]
    ['500', '24k', '1M', '1.23M']
    """
    return EngFormatter(sep="")(float(f"{steps:.3g}"))
