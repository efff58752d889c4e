"""Writing a report as one file."""

import datetime
from pathlib import Path

from dime.errors import DimeError, require
from dime.figures.reference import read_reference
from dime.figures.runs import RunDirs, is_study
from dime.report.content import content_of
from dime.report.page import chart_library, page
from dime.report.results import Analyst
from dime.report.sources import Reader
from dime.report.videos import inlined
from dime.training.records import write_bytes

MOST_BYTES = 20_000_000
"""Of a report; films are left out where they would make it larger."""

_MARGIN = 100_000  # bytes, for the markup around the films
_SUFFIXES = {".html", ".htm"}


def write_report(
    run_dirs: RunDirs, output: str | Path, *, reference: str | Path | None = None
) -> Path:
    """Writes a report on runs and studies as one HTML file, which opens without a network.

    Runs of the same environment and algorithm are pooled, as in the figures. Runs that failed, are
    not finished or cannot be read are listed with the reason.

    Args:
        run_dirs: folders of runs or studies.
        output: where to; ends in .html.
        reference: curves to draw beside them, as for `learning_curves`.

    Returns:
        The file written.

    Raises:
        DimeError: a folder is neither run nor study, plotly is not installed, the reference cannot
            be read, or the file cannot be written.
    """
    path = Path(output)
    require(
        path.suffix.lower() in _SUFFIXES,
        f"A report cannot be written as {path.name}. Choose a name ending in .html.",
    )
    library = chart_library()
    published = read_reference(reference)
    sources = Reader().read(_checked(run_dirs))
    content = content_of(sources, Analyst(), published)
    made = f"{datetime.datetime.now():%Y-%m-%d %H:%M}"
    text = page(content, made, library)
    if films := inlined(sources.entries, MOST_BYTES - len(text) - _MARGIN):
        content.blocks["films"] = films
        text = page(content, made, library)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, text)
    except OSError as error:
        raise DimeError(f"The report cannot be written to {path}: {error}.") from error
    return path


def _checked(run_dirs: RunDirs) -> list[Path]:
    """The folders, each a run or a study at least by its files' names."""
    named = [run_dirs] if isinstance(run_dirs, str | Path) else run_dirs
    paths = [Path(name) for name in named]
    require(bool(paths), "There is nothing to report on: name at least one run or study.")
    for path in paths:
        if not is_study(path) and not (path / "config.json").is_file():
            raise DimeError(
                f"{path} is neither a run nor a study: it has no config.json and no study.json."
            )
    return paths
