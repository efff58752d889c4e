"""What a report is made of: every run that was asked for, also those that cannot be drawn."""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dime.errors import DimeError
from dime.figures.runs import MAX_NUMBER, STUDY_FILE, Run, Study, is_study, open_study, read_runs
from dime.training.run_directory import RunDirectory

_MARKERS = {"config.json", "evaluations.jsonl", "status.json"}
_WATCHED = (*sorted(_MARKERS), "provenance.json", "video.mp4", STUDY_FILE, "failures")
_MAX_TRACEBACK = 20_000  # characters, its end

Stamp = tuple[Any, ...]
"""Changes when the files do."""


@dataclass(frozen=True)
class Entry:
    """One run, whether or not it can be drawn, with what its files say about it.

    Attributes:
        folder: where it is.
        name: what the report calls it.
        run: what is drawn; None if `problem` says why nothing is.
        problem: what is wrong with the run's files; "" if nothing is.
        config: content of config.json, as far as it can be read.
        status: content of status.json.
        written: when status.json was last written, seconds since 1970; None without one.
        starts: the entries of provenance.json.
        failures: titles and texts of what the run left when it failed.
        stamp: of the files that all this was read from.
    """

    folder: Path
    name: str
    run: Run | None = None
    problem: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    written: float | None = None
    starts: list[dict[str, Any]] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    stamp: Stamp = ()

    @property
    def kind(self) -> str:
        """Algorithm and variant, also of a run that cannot be drawn."""
        return self.run.kind if self.run else str(self.config.get("algorithm", "–"))

    @property
    def environment(self) -> str:
        """The environment's id, also of a run that cannot be drawn."""
        return str(self.config.get("env", "–"))

    @property
    def video(self) -> Path | None:
        """Its video, if it has one."""
        file = self.folder / "video.mp4"
        return file if file.is_file() else None

    @property
    def last_start(self) -> dict[str, Any]:
        """The newest entry of provenance.json."""
        return self.starts[-1] if self.starts else {}

    @property
    def state(self) -> str:
        """As in status.json; "unknown" without one."""
        return str(self.status.get("state", "unknown"))

    @property
    def seeds(self) -> list[int]:
        """The run's seeds, as far as its config says."""
        seeds = self._training.get("seeds")
        return [seed for seed in seeds if isinstance(seed, int)] if isinstance(seeds, list) else []

    @cached_property
    def env_step(self) -> int | None:
        """The last environment step known, of each seed."""
        steps = _numbers([*(r["env_step"] for r in self._records), self.status.get("env_step")])
        return int(max(steps)) if steps else None

    @property
    def planned(self) -> int | None:
        """Environment steps at which the run ends."""
        names = self.status.get("num_env_steps"), self._training.get("num_env_steps")
        return next(map(int, _numbers(names)), None)

    @cached_property
    def wall_time_s(self) -> float | None:
        """Seconds up to the last record or status."""
        times = [r.get("wall_time_s") for r in [*self._records, self.status]]
        return max(_numbers(times), default=None)

    @cached_property
    def pace(self) -> float | None:
        """Environment steps per second of each seed, from its first to its last evaluation."""
        timed = [r for r in self._records if _numbers([r.get("wall_time_s")])]
        points = sorted((record["env_step"], record["wall_time_s"]) for record in timed)
        if not points:
            return None
        (first, began), (last, ended) = points[0], points[-1]
        return (last - first) / (ended - began) if last > first and ended > began else None

    @cached_property
    def reason(self) -> str:
        """Why it did not finish or is not drawn."""
        failed = self.status.get("failed_seeds")
        reasons = [str(self.status.get("reason") or ""), self.problem]
        for seed, failure in failed.items() if isinstance(failed, dict) else ():
            why = failure.get("reason", "") if isinstance(failure, dict) else failure
            reasons.append(f"seed {seed}: {why}")
        evaluated = {record["seed"] for record in self._records}
        if silent := [seed for seed in self.seeds if self.run and seed not in evaluated]:
            reasons.append(f"no evaluation of {seed_text(silent)}")
        return "; ".join(filter(None, reasons))

    @property
    def complete(self) -> bool:
        """Whether it ran to its end, as far as that is known."""
        short = (self.env_step or 0) < (self.planned or 0)
        return self.state in ("finished", "unknown") and not self.reason and not short

    @property
    def _records(self) -> list[dict[str, Any]]:
        return self.run.records if self.run else []

    @property
    def _training(self) -> dict[str, Any]:
        training = self.config.get("training")
        return training if isinstance(training, dict) else {}


def _numbers(values: Iterable[Any]) -> list[float]:
    """Those of the values that are numbers which a run can have."""
    numbers = [value for value in values if isinstance(value, int | float)]
    return [value for value in numbers if 0 <= value < MAX_NUMBER and not isinstance(value, bool)]


def seed_text(seeds: list[int]) -> str:
    """Seeds in a row as a range.

    >>> seed_text([0, 1, 2, 3]), seed_text([3, 7]), seed_text([])
    ('seeds 0–3', 'seeds 3, 7', '–')
    """
    if not seeds:
        return "–"
    in_a_row = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[0] + len(seeds)))
    text = f"{seeds[0]}–{seeds[-1]}" if in_a_row else ", ".join(map(str, seeds))
    return f"seed{'' if len(seeds) == 1 else 's'} {text}"


@dataclass(frozen=True)
class StudyEntry:
    """A study: the text that it was made from, and what of it has not begun."""

    name: str
    source: str
    not_begun: list[tuple[str, str]]
    """Names of trials, each with the text of its failure or ""."""


@dataclass(frozen=True)
class Sources:
    """Everything that a report is about.

    Attributes:
        studies: in the order in which they were named or found.
        entries: the runs, each once.
        problems: folders that could not be read at all, with the reason.
    """

    studies: list[StudyEntry]
    entries: list[Entry]
    problems: list[tuple[str, str]]


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
            name = _name(path, root)
            try:
                study = open_study(path) if is_study(path) else None
            except DimeError as error:
                problems.append((name, str(error).replace(str(path), name)))
                continue
            if study is None:
                if path.resolve() not in entries:  # as a trial of its study
                    entries[path.resolve()] = self._entry(path, name)
                continue
            found, missing = self._trials(study, name if root else study.name)
            source = _object(path / STUDY_FILE).get("source")
            studies.append(
                StudyEntry(study.name, source if isinstance(source, str) else "", missing)
            )
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
                found.append(self._entry(folder, f"{prefix}/{trial}", study, failure))
            else:
                missing.append((trial, failure))
        return found, missing

    def _entry(
        self, folder: Path, name: str, study: Study | None = None, failure: str = ""
    ) -> Entry:
        stamp = (stamp_of(folder), name, study, failure)
        separate = study.varied if study else ()
        known = self._known.get((folder, separate))
        if known is not None and known.stamp == stamp:
            return known
        directory = RunDirectory(folder)
        run, problem = _read_run(folder, separate)
        for place in (folder.absolute(), folder):  # a report goes to others: no paths of its maker
            problem = problem.replace(str(place), name)
        config = run.config if run else _object(directory.config_file)
        config.pop("sha256", None)  # of the file: no setting
        status, stat = directory.status(), _stat(directory.status_file)
        starts = _object(directory.provenance_file).get("starts")
        entry = Entry(
            folder=folder,
            name=name,
            run=run,
            problem=problem,
            config=config,
            status=status,
            written=stat[0] / 1e9 if status and stat else None,
            starts=[s for s in starts if isinstance(s, dict)] if isinstance(starts, list) else [],
            failures=[*([("trial", failure)] if failure else []), *_failures(directory)],
            stamp=stamp,
        )
        self._known[folder, separate] = entry
        return entry


def _read_run(folder: Path, separate: Iterable[str]) -> tuple[Run | None, str]:
    """The run, or None and why it cannot be drawn; never raises for what is in the files."""
    try:
        (run,) = read_runs(folder, separate)
    except (DimeError, OSError) as error:
        return None, str(error)
    return run, ""


def find_sources(root: Path) -> list[Path]:
    """Folders of studies and runs anywhere below `root`, except hidden ones."""
    found = []
    for place, folders, files in os.walk(root):
        if STUDY_FILE in files:
            found.append(Path(place))
        elif _MARKERS & set(files):
            found.append(Path(place))
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
    return found


def stamp_of(folder: Path) -> Stamp:
    """Times and sizes of a run's files, or of those that a study has beside its runs.

    And its state, which changes without them when its process dies.
    """
    files = [folder / name for name in _WATCHED]
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
    """The JSON object in a file; an empty one if there is none."""
    with suppress(OSError, ValueError, RecursionError):
        content = json.loads(file.read_text("utf-8-sig"))
        if isinstance(content, dict):
            return content
    return {}


def _failure_file(study: Path, trial: str) -> Path:
    return study / "failures" / f"{trial}.txt"


def _failures(directory: RunDirectory) -> list[tuple[str, str]]:
    """What the run's failed seeds left: the reason, and the traceback if there is one."""
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
    cut = len(text) > _MAX_TRACEBACK
    return f"(the end of it)\n{text[-_MAX_TRACEBACK:]}" if cut else text


def _name(path: Path, root: Path | None) -> str:
    if root is None or path.resolve() == root.resolve():
        return path.resolve().name
    return path.relative_to(root).as_posix()
