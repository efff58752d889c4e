"""Runs as figures and reports read them: from run directories, and from studies' folders."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from dime.errors import DimeError, choose, require
from dime.training.records import read_records
from dime.training.run_directory import RunDirectory

RunDirs = str | Path | Iterable[str | Path]
"""One folder or several, each a run or a study."""

STUDY_FILE = "study.json"
STUDY_FORMAT_VERSION = 1
LONGEST_NAME = 240  # of a trial: what file systems take, less what is put before and behind it
MAX_NUMBER = 1e15  # of an env step or a return; a larger number is damage

OPERATIONAL = {"format_version", "preset"} | {
    f"training.{name}"
    for name in (
        "seeds num_env_steps evaluate_every num_evaluation_episodes evaluation_modes log_every "
        "checkpoint_every max_env_restarts env_process env_timeout_s tensorboard wandb_project"
    ).split()
}
"""Settings that runs of a kind may differ in: they do not change what is learnt up to a step."""


class Run(NamedTuple):
    """A run directory: its config.json and the lines of its evaluations.jsonl."""

    folder: Path
    config: dict[str, Any]
    records: list[dict[str, Any]]
    variant: str = ""  # what its study varies, as "num_steps=4"; "" outside studies

    @property
    def environment(self) -> str:
        """The environment's id."""
        return self.config["env"]

    @property
    def kind(self) -> str:
        """Algorithm and variant: what runs that are pooled have in common."""
        return f"{self.config['algorithm']} {self.variant}".strip()


class Study(NamedTuple):
    """What a study's folder plans."""

    folder: Path
    name: str
    trials: tuple[str, ...]
    """Names of run directories in the folder; a trial has one once it has begun."""
    varied: tuple[str, ...]
    """Settings that differ between trials, apart from environment, algorithm and seeds, by their
    path in config.json."""

    @property
    def evaluated(self) -> list[Path]:
        """The run directories of the trials that have evaluations."""
        files = [self.folder / trial / "evaluations.jsonl" for trial in self.trials]
        return [file.parent for file in files if file.is_file() and file.stat().st_size]


def is_study(folder: Path) -> bool:
    """Whether the folder is a study's."""
    return (folder / STUDY_FILE).is_file()


def open_study(folder: Path) -> Study:
    """Reads a study's folder.

    Raises:
        DimeError: its study.json is missing, damaged or of a newer release.
    """
    file = folder / STUDY_FILE
    try:
        content = json.loads(file.read_text("utf-8-sig"))
        version = int(content["format_version"])
        trials = tuple(str(trial["name"]) for trial in content["trials"])
        study = Study(folder, str(content["name"]), trials, tuple(map(str, content["varied"])))
        for trial in trials:  # a folder's name, and none that leads out of the study
            if trial != Path(trial).name or len(trial) > LONGEST_NAME:
                raise ValueError(f"{trial:.80} is no trial's name")
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DimeError(f"{file} is damaged or not a study's ({error!r:.200}).") from error
    require(
        version <= STUDY_FORMAT_VERSION,
        f"{file} has format version {version}; this release of dime reads up to "
        f"{STUDY_FORMAT_VERSION}. Upgrade: pip install --upgrade dime-rl",
    )
    return study


def read_runs(run_dirs: RunDirs, by: Iterable[str] = ()) -> list[Run]:
    """Reads runs, each once; of a study those of its trials that have evaluations.

    Args:
        run_dirs: folders of runs or of studies.
        by: settings that separate runs, as "settings.num_steps", beside those that a study varies.

    Raises:
        DimeError: none is given, one is neither run nor study or damaged, one has no evaluations
            yet, or no run has one of the settings of `by`.
    """
    by, paths = tuple(by), folders_of(run_dirs)
    runs: dict[Path, Run] = {}
    require(bool(paths), "There is nothing to draw: name at least one run directory.")
    for path in paths:
        study = open_study(path) if is_study(path) else None
        separate = tuple(dict.fromkeys([*study.varied, *by])) if study else by
        for folder in study.evaluated if study else [path]:
            runs[folder.resolve()] = _read_run(folder, separate)
    require(bool(runs), f"No trial of {paths[0]} has evaluations yet; try again in a moment.")
    known = {name for run in runs.values() for name in flatten(run.config)}
    for name in by:
        choose("setting of these runs", name, known)
    return list(runs.values())


def by_environment(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The runs by their environment's id, in their order."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.environment].append(run)
    return groups


def folders_of(run_dirs: RunDirs) -> list[Path]:
    """The folders as a list."""
    return [Path(run_dirs)] if isinstance(run_dirs, str | Path) else list(map(Path, run_dirs))


def unevaluated_note(run_dirs: RunDirs) -> list[str]:
    """What a caption says of trials that a study plans and no figure can show yet."""
    return [
        f"Left out of {study.name}: {count} trials that have no evaluations yet."
        for study in map(open_study, filter(is_study, folders_of(run_dirs)))
        if (count := len(study.trials) - len(study.evaluated))
    ]


def _read_run(path: Path, separate: tuple[str, ...]) -> Run:
    directory = RunDirectory.open(path)
    try:
        config = directory.config()
        seeds, texts = config["training"]["seeds"], (config["env"], config["algorithm"])
        valid = _are(list, [seeds]) and _are(int, seeds) and _are(str, texts)
        require(valid, f"{path}/config.json is damaged: other types than a run's.")
        records = list(read_records(directory.evaluations_file))
        for number, record in enumerate(records, 1):
            place = f"{directory.evaluations_file}, line {number}"
            require(_is_evaluation(record), f"{place}, is damaged or not an evaluation.")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DimeError(
            f"{path} is damaged: its files are not those of a run ({error!r:.200}). Leave it out."
        ) from error
    status = directory.status()
    state, reason = status.get("state", "running"), status.get("reason")
    advice = "Try again when there is one" if state == "running" else "Resume it with evaluations"
    require(
        bool(records),
        f"{path} has no evaluations yet, and its state is {state}"
        f"{f': {reason}' if reason else ''}. {advice}, or leave this run out.",
    )
    return Run(path, config, records, variant_of(config, separate))


def _are(kind: Any, values: Iterable[Any]) -> bool:
    return all(isinstance(value, kind) for value in values)


def _is_evaluation(record: dict[str, Any]) -> bool:
    step, episodes = record["env_step"], [record["returns"], record["success_last"] or []]
    whole = _are(int, [step, record["seed"]]) and 0 <= step < MAX_NUMBER
    if not (whole and _are(str, [record["mode"]]) and _are(list, episodes) and episodes[0]):
        return False
    scores = sum(episodes, [])  # null is a number that JSON does not have
    return _are(int | float | None, scores) and not any(abs(s or 0) >= MAX_NUMBER for s in scores)


def variant_of(config: dict[str, Any], names: Iterable[str]) -> str:
    """The values of these settings, as a curve's label has them; those a config lacks left out.

    >>> variant_of({"settings": {"num_steps": 4, "critic": {"head": "scalar"}}},
    ...     ["settings.num_steps", "settings.critic.head", "settings.absent"])
    'num_steps=4 critic.head=scalar'
    """
    flat = flatten(config)
    present = [name for name in names if name in flat]
    last = [name.rpartition(".")[2] for name in present]
    # A single word says too little by itself: `critic.head`, but `num_steps`.
    return " ".join(
        f"{s if last.count(s) == 1 and '_' in s else name.removeprefix('settings.')}={flat[name]}"
        for name, s in zip(present, last, strict=True)
    )


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config with paths as names: {"settings.discount": 0.99}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat
