"""What a report is made of: every run that was asked for, also those that cannot be drawn."""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from dime.errors import DimeError
from dime.figures.runs import MAX_NUMBER, STUDY_FILE, Run, Study, is_study, open_study, read_runs
from dime.training.run_directory import RunDirectory

_MARKERS = {"config.json", "evaluations.jsonl", "status.json"}
_WATCHED = (*sorted(_MARKERS), "provenance.json", "video.mp4", STUDY_FILE, "failures")
_MAX_TRACEBACK = 20_000  # characters, its end

Stamp = tuple[Any, ...]
"""Changes when the files do."""
Sources = dict[str, list[Any]]
"""What a report is about: "studies" with "name", "source" (the text that it was made from) and
"not_begun" (names of trials, each with the text of its failure or ""); "entries", each run once;
"problems": folders that could not be read at all, with the reason."""


class Entry(NamedTuple):
    """One run, whether or not it can be drawn, with what its files say about it."""

    folder: Path
    name: str
    run: Run | None  # what is drawn; None if `reason` says why nothing is
    config: dict[str, Any]  # as far as it can be read; so are the values below
    kind: str  # algorithm and variant
    environment: str
    seeds: list[int]
    state: str  # as in status.json; "unknown" without one
    env_step: int | None  # the last one known, of each seed
    planned: int | None  # the env step at which the run ends
    wall_time_s: float | None
    pace: float | None  # env steps per second of each seed, from its first to its last evaluation
    reason: str  # why it did not finish or is not drawn
    starts: list[dict[str, Any]]  # the entries of provenance.json
    failures: list[tuple[str, str]]  # titles and texts of what the run left when it failed
    video: Path | None

    @property
    def complete(self) -> bool:
        """Whether it ran to its end, as far as that is known."""
        short = (self.env_step or 0) < (self.planned or 0)
        return self.state in ("finished", "unknown") and not self.reason and not short


def _entry(folder: Path, name: str, separate: tuple[str, ...], failure: str) -> Entry:
    directory = RunDirectory(folder)
    run, problem = None, ""
    try:
        (run,) = read_runs(folder, separate)
    except (DimeError, OSError) as error:
        problem = str(error)
        for place in (folder.absolute(), folder):  # a report goes to others: no paths of its maker
            problem = problem.replace(str(place), name)
    config = run.config if run else _object(directory.config_file)
    config.pop("sha256", None)  # of the file: no setting
    training, status = typed(dict, config.get("training")), directory.status()
    seeds = [s for s in typed(list, training.get("seeds")) if isinstance(s, int)]
    records = run.records if run else []
    env_steps = _numbers([*(r["env_step"] for r in records), status.get("env_step")])
    planned = _numbers([status.get("num_env_steps"), training.get("num_env_steps")])
    starts = typed(list, _object(directory.provenance_file).get("starts"))
    video = folder / "video.mp4"
    return Entry(
        folder,
        name,
        run,
        config,
        kind=run.kind if run else str(config.get("algorithm", "–")),
        environment=str(config.get("env", "–")),
        seeds=seeds,
        state=str(status.get("state", "unknown")),
        env_step=int(max(env_steps)) if env_steps else None,
        planned=int(planned[0]) if planned else None,
        wall_time_s=max(_numbers(r.get("wall_time_s") for r in [*records, status]), default=None),
        pace=_pace(records),
        reason=_reason(status, problem, seeds if run else [], records),
        starts=[start for start in starts if isinstance(start, dict)],
        failures=[*([("trial", failure)] if failure else []), *_failures(directory)],
        video=video if video.is_file() else None,
    )


def typed(kind: type, value: Any) -> Any:
    """The value if it is of this kind, otherwise an empty one."""
    return value if isinstance(value, kind) else kind()


def _pace(records: list[dict[str, Any]]) -> float | None:
    times = {r["env_step"]: r["wall_time_s"] for r in records if _numbers([r.get("wall_time_s")])}
    first, last = min(times, default=0), max(times, default=0)
    seconds = times[last] - times[first] if times else 0
    return (last - first) / seconds if seconds > 0 else None


def _reason(
    status: dict[str, Any], problem: str, seeds: list[int], records: list[dict[str, Any]]
) -> str:
    reasons = [str(status.get("reason") or ""), problem]
    for seed, failure in typed(dict, status.get("failed_seeds")).items():
        reasons.append(f"seed {seed}: {typed(dict, failure).get('reason', failure)}")
    evaluated = {record["seed"] for record in records}
    reasons += [f"no evaluation of seed {seed}" for seed in seeds if seed not in evaluated]
    return "; ".join(filter(None, reasons))


def _numbers(values: Iterable[Any]) -> list[float]:
    """Those of the values that are numbers which a run can have."""
    numbers = [value for value in values if isinstance(value, int | float)]
    return [value for value in numbers if 0 <= value < MAX_NUMBER and not isinstance(value, bool)]


class Reader:
    """Reads runs and studies; a run whose files are the same is not read again."""

    def __init__(self):
        self._known: dict[Path, tuple[Stamp, Entry]] = {}

    def read(self, paths: Iterable[Path], root: Path | None = None) -> Sources:
        """Reads the studies and runs in these folders.

        Args:
            paths: folders of runs or studies.
            root: what the names are relative to; None to call runs by their folder's name.
        """
        studies, problems = [], []
        entries: dict[Path, Entry] = {}
        for path in paths:
            inner = root is not None and path.resolve() != root.resolve()
            name = path.relative_to(root).as_posix() if root and inner else path.resolve().name
            try:
                study = open_study(path) if is_study(path) else None
            except DimeError as error:
                problems.append((name, str(error).replace(str(path), name)))
                continue
            if study is not None:
                studies.append(self._study(study, name if root else study.name, entries))
            elif path.resolve() not in entries:  # as a trial of its study
                entries[path.resolve()] = self._entry(path, name)
        self._known = {entry.folder: self._known[entry.folder] for entry in entries.values()}
        return {"studies": studies, "entries": list(entries.values()), "problems": problems}

    def _study(self, study: Study, prefix: str, entries: dict[Path, Entry]) -> dict[str, Any]:
        """Adds the trials that have begun to `entries`."""
        not_begun, place = [], study.folder.resolve()
        for trial in study.trials:
            folder, failure = place / trial, _text(place / "failures" / f"{trial}.txt")
            if not folder.resolve().is_relative_to(place):
                failure = "The trial's folder is a link out of the study's folder."
            elif (folder / "config.json").is_file():
                entry = self._entry(folder, f"{prefix}/{trial}", study.varied, failure)
                entries[folder.resolve()] = entry
                continue
            not_begun.append((trial, failure))
        source = typed(str, _object(place / STUDY_FILE).get("source"))
        return {"name": study.name, "source": source, "not_begun": not_begun}

    def _entry(
        self, folder: Path, name: str, separate: tuple[str, ...] = (), failure: str = ""
    ) -> Entry:
        stamp = (stamp_of(folder), name, separate, failure)
        if self._known.get(folder, ((), None))[0] != stamp:
            self._known[folder] = stamp, _entry(folder, name, separate, failure)
        return self._known[folder][1]


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
            files += [folder / "failures" / f"{t}.txt" for t in open_study(folder).trials]
    return folder, RunDirectory(folder).status().get("state"), *map(_stat, files)


def _stat(path: Path) -> tuple[int, int] | None:
    with suppress(OSError, ValueError):
        stat = path.stat()
        return stat.st_mtime_ns, stat.st_size
    return None


def _object(file: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one if there is none."""
    with suppress(OSError, ValueError, RecursionError):
        return typed(dict, json.loads(file.read_text("utf-8-sig")))
    return {}


def _failures(directory: RunDirectory) -> list[tuple[str, str]]:
    """What the run's failed seeds left: the reason, and the traceback if there is one."""
    failures = []
    for folder in sorted(directory.failures_folder.glob("seed-*")):
        reason = _object(folder / "failure.json").get("reason", "")
        text = _text(folder / "traceback.txt")
        failures.append((folder.name, f"{reason}\n\n{text}".strip()))
    return failures


def _text(file: Path) -> str:
    with suppress(OSError, ValueError):
        return file.read_text("utf-8-sig", errors="replace").strip()[-_MAX_TRACEBACK:]
    return ""
