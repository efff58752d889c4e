"""The runs' states and pace as tables, and what did not go well."""

import datetime
import statistics
from collections import defaultdict
from typing import Any

from dime.report.markup import Markup, fold, join, table, tag
from dime.report.progress import Progress, seed_text
from dime.report.sources import Entry, Sources, StudyEntry
from dime.report.wording import counted, duration_text, span_text, steps_text

_UNKNOWN = "–"


def kind_of(entry: Entry) -> str:
    """Algorithm and variant, also of a run that cannot be drawn."""
    return entry.run.kind if entry.run else str(entry.config.get("algorithm", _UNKNOWN))


def environment_of(entry: Entry) -> str:
    """The environment's id, also of a run that cannot be drawn."""
    return str(entry.config.get("env", _UNKNOWN))


def run_table(entries: list[Entry]) -> Markup:
    """Every run: where it stands and how fast it is."""
    head = [
        "run",
        "environment",
        "algorithm",
        "seeds",
        "state",
        "env steps",
        "wall clock",
        "env steps/s",
        "device",
    ]
    return table(head, [_run_row(entry) for entry in entries], label="All runs", class_="tall")


def _run_row(entry: Entry) -> list[object]:
    progress = entry.progress
    wall = progress.wall_time_s
    return [
        entry.name,
        environment_of(entry),
        kind_of(entry),
        seed_text(progress.seeds).removeprefix("seeds ").removeprefix("seed "),
        tag("span", progress.state, class_="state", data_state=progress.state),
        _steps(progress),
        _UNKNOWN if wall is None else duration_text(wall),
        _UNKNOWN if progress.pace is None else f"{progress.pace:,.1f}",
        _last_start(entry).get("device", _UNKNOWN),
    ]


def _steps(progress: Progress) -> str:
    if progress.env_step is None:
        return _UNKNOWN
    done = steps_text(progress.env_step)
    if progress.planned is None or progress.env_step >= progress.planned:
        return done
    return f"{done} of {steps_text(progress.planned)}"


def _last_start(entry: Entry) -> dict[str, Any]:
    return entry.starts[-1] if entry.starts else {}


def throughput(entries: list[Entry]) -> Markup:
    """Pace per algorithm and machine: the median over runs, and its range."""
    groups: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    for entry in entries:
        progress = entry.progress
        if progress.pace:
            start = _last_start(entry)
            where = " · ".join(str(start[key]) for key in ("device", "platform") if key in start)
            groups[kind_of(entry), where or _UNKNOWN].append((progress.pace, len(progress.seeds)))
    if not groups:
        return tag("p", "No run has two evaluations to measure between.", class_="note")
    rows = []
    for (kind, where), measured in groups.items():
        paces = [pace for pace, _ in measured]
        middle = statistics.median(paces)
        side_by_side = {count for _, count in measured}
        rows.append(
            [
                kind,
                f"{middle:,.1f}",
                f"{min(paces):,.1f} to {max(paces):,.1f}",
                duration_text(1e6 / middle),
                span_text(side_by_side),
                counted(len(paces), "run"),
                where,
            ]
        )
    head = [
        "algorithm",
        "env steps/s, median",
        "range",
        "time for 1M env steps",
        "seeds per run",
        "runs",
        "machine",
    ]
    note = (
        "Env steps per second of each seed, evaluations and checkpoints included; the seeds of a "
        "run train side by side."
    )
    return join([table(head, rows, label="Throughput"), tag("p", note, class_="note")])


def trouble(sources: Sources) -> Markup:
    """Runs that failed, are not finished or cannot be drawn, and trials that never began."""
    rows, texts = [], []
    for entry in sources.entries:
        progress = entry.progress
        texts += [(f"{entry.name}, {title}", text) for title, text in entry.failures]
        if not progress.complete:
            state = tag("span", progress.state, class_="state", data_state=progress.state)
            reason = progress.reason or _unfinished(entry, progress)
            rows.append([entry.name, state, _steps(progress), reason])
    for study in sources.studies:
        rows += [_not_begun(study, trial, failure) for trial, failure in study.not_begun]
        texts += [(f"{study.name}/{trial}", text) for trial, text in study.not_begun if text]
    rows += [[name, "unreadable", _UNKNOWN, reason] for name, reason in sources.problems]
    if not rows and not texts:
        return tag("p", "Every run finished.", class_="note")
    parts = (
        [
            table(
                ["run", "state", "env steps", "reason"],
                rows,
                label="Unfinished runs",
                class_="tall reasons",
            )
        ]
        if rows
        else []
    )
    parts += [fold(title, tag("pre", text), key=f"failure {title}") for title, text in texts]
    return join(parts)


def count_troubles(sources: Sources) -> int:
    """How many runs and trials `trouble` lists."""
    unfinished = sum(not entry.progress.complete for entry in sources.entries)
    not_begun = sum(len(study.not_begun) for study in sources.studies)
    return unfinished + not_begun + len(sources.problems)


def _unfinished(entry: Entry, progress: Progress) -> str:
    if progress.state == "running" and entry.written is not None:
        when = datetime.datetime.fromtimestamp(entry.written, datetime.UTC)
        return f"still running; last sign of life {when:%Y-%m-%d %H:%M} UTC"
    return "ended before its planned length"


def _not_begun(study: StudyEntry, trial: str, failure: str) -> list[object]:
    last = failure.splitlines()[-1] if failure else "not begun yet"
    state = tag(
        "span",
        "failed" if failure else "not begun",
        class_="state",
        data_state="failed" if failure else "waiting",
    )
    return [f"{study.name}/{trial}", state, _UNKNOWN, last]
