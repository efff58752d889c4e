"""What a report is made of: every run that was asked for, also those that have nothing to draw."""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dime.errors import DimeError
from dime.figures.runs import STUDY_FILE, Run, Study, is_study, open_study, read_runs
from dime.report.progress import NOTHING, Progress, progress_of
from dime.training.run_directory import RunDirectory

_MARKERS = {"config.json", "evaluations.jsonl", "status.json"}
_WATCHED = ("config.json", "evaluations.jsonl", "status.json", "provenance.json", "video.mp4")
_MOST_OF_A_TRACEBACK = 20_000  # characters, its end


Stamp = tuple[Any, ...]
"""Changes when the files do."""


@dataclass(frozen=True)
class Entry:
    """One run, whether or not it can be drawn.

    Attributes:
        folder: where it is.
        name: what the report calls it.
        study: name of its study; "" outside studies.
        run: what is drawn; None where `problem` says why nothing is.
        problem: what is wrong with the run's files; "" where nothing is.
        progress: how far it came.
        config: content of config.json, as far as it can be read.
        written: when status.json was last written, seconds since 1970; None without one.
        starts: the entries of provenance.json.
        failures: titles and texts of what the run left when it failed.
        stamp: of the files that all this was read from.
    """

    folder: Path
    name: str
    study: str = ""
    run: Run | None = None
    problem: str = ""
    progress: Progress = NOTHING
    config: dict[str, Any] = field(default_factory=dict)
    written: float | None = None
    starts: list[dict[str, Any]] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    stamp: Stamp = ()

    @property
    def video(self) -> Path | None:
        """Its film, where it has one."""
        file = self.folder / "video.mp4"
        return file if file.is_file() else None


@dataclass(frozen=True)
class StudyEntry:
    """A study: its plan, what of it has not begun, and the text that it was made from."""

    folder: Path
    name: str
    source: str
    not_begun: list[tuple[str, str]]
    """Names of trials, each with the text of its failure or ""."""


@dataclass(frozen=True)
class Sources:
    """Everything that a report tells of.

    Attributes:
        studies: in the order in which they were named or found.
        entries: the runs, each once.
        problems: places that could not be read at all, with the reason.
    """

    studies: list[StudyEntry]
    entries: list[Entry]
    problems: list[tuple[str, str]]

    @property
    def runs(self) -> list[Run]:
        """The runs that can be drawn."""
        return [entry.run for entry in self.entries if entry.run is not None]


class Reader:
    """Reads runs and studies; a run whose files are the same is not read again."""

    def __init__(self):
        self._known: dict[tuple[Path, tuple[str, ...]], Entry] = {}

    def read(self, paths: Iterable[Path], root: Path | None = None) -> Sources:
        """Reads the studies and runs in these folders.

        Args:
            paths: folders of runs or studies.
            root: what the names are relative to; None to call runs by their folder's name.
        """
        studies, problems = [], []
        entries: dict[Path, Entry] = {}
        for path in paths:
            study = None
            try:
                study = open_study(path) if is_study(path) else None
            except DimeError as error:
                name = _name(path, root)
                problems.append((name, str(error).replace(str(path), name)))
                continue
            if study is None:
                if path.resolve() not in entries:  # as a trial of its study
                    entries[path.resolve()] = self._entry(path, _name(path, root))
                continue
            found, missing = self._trials(study, _name(path, root) if root else study.name)
            studies.append(StudyEntry(path, study.name, _source(path), missing))
            for entry in found:  # as a trial of its study rather than as a run by itself
                entries[entry.folder.resolve()] = entry
        kept = {entry.folder for entry in entries.values()}
        self._known = {key: known for key, known in self._known.items() if key[0] in kept}
        return Sources(studies, list(entries.values()), problems)

    def _trials(self, study: Study, prefix: str) -> tuple[list[Entry], list[tuple[str, str]]]:
        """The trials that have begun, and the names of the others with what made them fail."""
        found, missing = [], []
        place = study.folder.resolve()
        for trial in study.trials:
            folder = study.folder / trial
            if not folder.resolve().is_relative_to(place):
                missing.append((trial, "The trial's folder is a link out of the study's folder."))
                continue
            failure = _text(_failure_file(study.folder, trial))
            if (folder / "config.json").is_file():
                found.append(self._entry(folder, f"{prefix}/{trial}", study=study, failure=failure))
            else:
                missing.append((trial, failure))
        return found, missing

    def _entry(
        self, folder: Path, name: str, *, study: Study | None = None, failure: str = ""
    ) -> Entry:
        stamp = (stamp_of(folder), name, study, failure)
        separate = study.varied if study else ()
        known = self._known.get((folder, separate))
        if known is not None and known.stamp == stamp:
            return known
        directory = RunDirectory(folder)
        run, problem = read_run(folder, separate)
        for place in (folder.absolute(), folder):  # a report goes to others: no paths of its maker
            problem = problem.replace(str(place), name)
        status = directory.status()
        config = run.config if run else _object(directory.config_file)
        config.pop("sha256", None)  # of the file: no setting
        entry = Entry(
            folder=folder,
            name=name,
            study=study.name if study else "",
            run=run,
            problem=problem,
            progress=progress_of(run, config, status, problem),
            config=config,
            written=_written(directory.status_file) if status else None,
            starts=_starts(_object(directory.provenance_file)),
            failures=[*([("trial", failure)] if failure else []), *_failures(directory)],
            stamp=stamp,
        )
        self._known[folder, separate] = entry
        return entry


def read_run(folder: Path, separate: Iterable[str]) -> tuple[Run | None, str]:
    """The run, or None and why it cannot be drawn; never raises for what is in the files."""
    try:
        (run,) = read_runs(folder, separate)
    except (DimeError, OSError) as error:
        return None, str(error)
    return run, ""


def find_sources(root: Path) -> list[Path]:
    """Folders of studies and runs anywhere below `root`; hidden ones are left out."""
    found = []
    for place, folders, files in os.walk(root):
        folder = Path(place)
        if STUDY_FILE in files:
            found.append(folder)
        elif _MARKERS & set(files):
            found.append(folder)
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
    return found


def stamp_of(folder: Path) -> Stamp:
    """Times and sizes of a run's files, or of those that a study has beside its runs.

    And its state, which changes without them where its process dies.
    """
    files = [folder / name for name in (*_WATCHED, STUDY_FILE, "failures")]
    if is_study(folder):
        with suppress(DimeError):
            files += [_failure_file(folder, trial) for trial in open_study(folder).trials]
    return folder, RunDirectory(folder).status().get("state"), *map(_stat, files)


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return None
    return stat.st_mtime_ns, stat.st_size


def _object(file: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one where there is none."""
    with suppress(OSError, ValueError, RecursionError):
        content = json.loads(file.read_text("utf-8-sig"))
        if isinstance(content, dict):
            return content
    return {}


def _starts(provenance: dict[str, Any]) -> list[dict[str, Any]]:
    starts = provenance.get("starts")
    return (
        [start for start in starts if isinstance(start, dict)] if isinstance(starts, list) else []
    )


def _source(study: Path) -> str:
    source = _object(study / STUDY_FILE).get("source")
    return source if isinstance(source, str) else ""


def _failure_file(study: Path, trial: str) -> Path:
    return study / "failures" / f"{trial}.txt"


def _written(file: Path) -> float | None:
    stat = _stat(file)
    return stat and stat[0] / 1e9


def _failures(directory: RunDirectory) -> list[tuple[str, str]]:
    """What the run's failed seeds left: the reason, and the traceback where there is one."""
    failures = []
    for folder in sorted(directory.failures_folder.glob("seed-*")):
        reason = _object(folder / "failure.json").get("reason", "")
        text = _text(folder / "traceback.txt")
        failures.append((folder.name, f"{reason}\n\n{text}".strip()))
    return failures


def _text(file: Path) -> str:
    try:
        text = file.read_text("utf-8-sig", errors="replace").strip()
    except (OSError, ValueError):
        return ""
    cut = len(text) > _MOST_OF_A_TRACEBACK
    return f"(the end of it)\n{text[-_MOST_OF_A_TRACEBACK:]}" if cut else text


def _name(path: Path, root: Path | None) -> str:
    if root is None or path.resolve() == root.resolve():
        return path.resolve().name
    return path.relative_to(root).as_posix()
