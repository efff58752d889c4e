"""What the runs were made of: differing settings, whole configs, versions, commands."""

import json
import shlex
from collections import defaultdict
from pathlib import PurePath
from typing import Any

from dime.figures.runs import flatten
from dime.report.markup import EMPTY, Markup, fold, join, table, tag
from dime.report.sources import Entry, Sources
from dime.report.states import environment_of, kind_of
from dime.report.wording import counted

_NO_SETTINGS = {"env", "algorithm", "training.seeds"}
_MOST_VALUES = 3  # of a setting that varies within an algorithm; the rest is counted
_MOST_NAMES = 12


def differing_settings(entries: list[Entry]) -> Markup:
    """The settings that are not the same for all algorithms and variants, a column for each."""
    values: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    kinds = dict.fromkeys(kind_of(entry) for entry in entries if entry.config)
    for entry in entries:
        for name, value in flatten(entry.config).items():
            seen = values[name][kind_of(entry)]
            text = value if isinstance(value, str) else json.dumps(value)
            if name not in _NO_SETTINGS and text not in seen:
                seen.append(text)
    rows = []
    for name in sorted(values):
        cells = [_cell(values[name].get(kind, [])) for kind in kinds]
        if len(set(cells)) > 1 or any(len(seen) > 1 for seen in values[name].values()):
            rows.append([name.removeprefix("settings."), *cells])
    if not rows:
        return tag("p", "All runs have the same settings.", class_="note")
    note = "Only settings that differ; – where an algorithm lacks one; several values where its "
    note += "runs differ, between environments say."
    content = table(["setting", *kinds], rows, label="Differing settings", class_="tall code")
    return join([content, tag("p", note, class_="note")])


def _cell(values: list[str]) -> str:
    more = len(values) - _MOST_VALUES
    return (" | ".join(values[:_MOST_VALUES]) or "–") + (f" | {more} more" if more > 0 else "")


def whole_configs(entries: list[Entry]) -> Markup:
    """Each config once, with the runs that have it; they may differ in their seeds."""
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.config:
            groups[json.dumps(_without_seeds(entry.config), sort_keys=True)].append(entry)
    return join(
        fold(
            f"{kind_of(group[0])} on {environment_of(group[0])} · {counted(len(group), 'run')}",
            tag("p", "Runs: ", ", ".join(entry.name for entry in group), class_="note"),
            tag("pre", json.dumps(group[0].config, indent=2)),
            key=f"config {group[0].name}",
        )
        for group in groups.values()
    )


def _without_seeds(config: dict[str, Any]) -> dict[str, Any]:
    training = config.get("training")
    if not isinstance(training, dict):
        return config
    return config | {"training": training | {"seeds": None}}


def reproduction(sources: Sources) -> Markup:
    """The studies' files, and the commands that the runs were started with."""
    parts = [
        join([tag("h3", f"Study file of {study.name}"), tag("pre", study.source)])
        for study in sources.studies
        if study.source
    ]
    commands: dict[str, list[str]] = defaultdict(list)
    for entry in sources.entries:
        for start in entry.starts:
            commands[_command(start)].append(entry.name)
    commands.pop("", None)
    if commands:
        rows = [[tag("code", command), _names(names)] for command, names in commands.items()]
        parts += [
            tag("h3", "Commands"),
            table(["command", "runs"], rows, label="Commands", class_="tall"),
        ]
    unknown = [entry.name for entry in sources.entries if not entry.starts]
    if unknown:
        parts.append(tag("p", f"Without a provenance.json: {_names(unknown)}.", class_="note"))
    return join(parts)


def _command(start: dict[str, Any]) -> str:
    """As it was typed, but for the folder that the program is in; "" for a worker of a sweep."""
    words = start.get("command")
    if not isinstance(words, list) or not words or str(words[0]).endswith("default_worker.py"):
        return ""
    program, *arguments = map(str, words)
    return shlex.join([PurePath(program).name, *arguments])


def _names(names: list[str]) -> str:
    unique = list(dict.fromkeys(names))
    more = len(unique) - _MOST_NAMES
    return ", ".join(unique[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def versions(entries: list[Entry]) -> Markup:
    """Versions, commits and machines, a row per combination."""
    groups: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for entry in entries:
        for start in entry.starts:
            groups[_environment(start)].add(entry.name)
    if not groups:
        return EMPTY
    rows = [[counted(len(names), "run"), *cells] for cells, names in groups.items()]
    head = ["runs", "dime", "commit", "Python", "machine", "device", "libraries"]
    return join([tag("h3", "Versions and machines"), table(head, rows, label="Versions")])


def _environment(start: dict[str, Any]) -> tuple[str, ...]:
    libraries = start.get("versions")
    named = libraries.items() if isinstance(libraries, dict) else ()
    keys = ("dime", "git_commit", "python", "platform")
    device = f"{start.get('device', '–')} ({start.get('backend', '–')})"
    texts = [str(start.get(key) or "–") for key in keys]
    return *texts, device, ", ".join(f"{name} {version}" for name, version in named)
