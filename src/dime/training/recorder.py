"""What a run reports: records, status, and the listeners."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from dime.training.checkpoint import FailedSeed, RunState
from dime.training.listeners import Record
from dime.training.process import this_process
from dime.training.records import RecordFile, cut_records, write_json
from dime.training.run_directory import RunDirectory

# What a checkpoint keeps, besides the records' sizes and the time.
_KEPT = ("last_evaluation", "failed_seeds", "unrepeatable")


class Recorder:
    """Writes metrics.jsonl, evaluations.jsonl and status.json, and notifies the listeners.

    `callback(record)` receives every record too; a true result asks the run to stop.
    """

    def __init__(
        self,
        directory: RunDirectory,
        listeners: list[Any],
        callback: Callable[[Record], Any] | None,
    ):
        self._directory, self._listeners, self._callback = directory, listeners, callback
        self._process = this_process()
        files = (directory.metrics_file, directory.evaluations_file)
        self._files = {file.name: RecordFile(file) for file in files}
        self._began = self._window_began = time.monotonic()
        self._window_start = (0, 0)
        self.last_evaluation: dict[str, dict[str, float]] = {}
        self.failed_seeds: dict[str, FailedSeed] = {}
        self.unrepeatable: str | None = None
        self.stop_requested = False

    @property
    def wall_time_s(self) -> float:
        """Seconds that the run took so far, in all its processes."""
        return time.monotonic() - self._began

    def position(self) -> dict[str, Any]:
        """What a checkpoint keeps of the records; they are on the disk when this returns."""
        sizes = {name: file.sync() for name, file in self._files.items()}
        kept = {name: getattr(self, name) for name in _KEPT}
        return {"record_bytes": sizes, "wall_time_s": self.wall_time_s, **kept}

    def restore(self, run: RunState) -> None:
        """Cuts the records at a checkpoint's position, and says so."""
        self._began -= run.wall_time_s
        for name in _KEPT:
            setattr(self, name, getattr(run, name))
        self._window_start = (run.env_step, run.updates)
        for name, size in run.record_bytes.items():
            path = self._files[name].path
            if path.stat().st_size < size:
                self.message(f"warning: {path} is damaged: records are missing.")
        if num_cut := self._cut(run.record_bytes):
            self.message(f"{num_cut} records newer than the checkpoint went to discarded.jsonl.")

    def restart(self) -> None:
        """Sets aside the records of a process that never came to a checkpoint."""
        self._cut(dict.fromkeys(self._files, 0))

    def _cut(self, sizes: dict[str, int]) -> int:
        discarded = self._directory.discarded_file
        return sum(cut_records(self._files[name].path, n, discarded) for name, n in sizes.items())

    def start(self) -> None:
        """Rates are counted from here on."""
        self._window_began = time.monotonic()

    def step(self, env_step: int) -> None:
        """An env step was taken."""
        self._notify("step", env_step)

    def metrics(self, env_step: int, updates: int, per_seed: list[Record]) -> None:
        """Adds a line per seed to metrics.jsonl, with the rates since the last ones."""
        now = time.monotonic()
        seconds = max(now - self._window_began, 1e-9)
        steps, updated = env_step - self._window_start[0], updates - self._window_start[1]
        self._window_began, self._window_start = now, (env_step, updates)
        for record in per_seed:
            line = {
                "env_step": env_step,
                "updates": updates,
                "wall_time_s": self.wall_time_s,
                **record,
                "env_steps_per_s": steps / seconds,
                "updates_per_s": updated / seconds,
            }
            self._publish("metrics.jsonl", line)

    def evaluation(self, record: Record) -> None:
        """Adds a line to evaluations.jsonl."""
        by_mode = self.last_evaluation.setdefault(str(record["seed"]), {})
        by_mode[record["mode"]] = float(np.mean(record["returns"]))
        line = {**record, "wall_time_s": self.wall_time_s}
        self._publish("evaluations.jsonl", line)

    def _attempt(self, write: Callable[[], None]) -> None:
        """Writes to the run's folder; a full disk is reported and stops nothing."""
        try:
            write()
        except OSError as error:
            self.message(f"warning: {error}. Training continues; the next record tries again.")

    def _publish(self, name: str, record: Record) -> None:
        self._attempt(partial(self._files[name].append, record))
        self._notify("record", record)
        if self._callback is not None and self._callback(dict(record)):
            self.stop_requested = True

    def message(self, text: str) -> None:
        """Shows something that the user should read."""
        self._notify("message", text)

    def _notify(self, event: str, *arguments: Any) -> None:
        """Notifies every listener; one that fails is left out from then on.

        A logger's service, its disk, or a terminal that has gone is no reason to stop training.
        """
        for listener in list(self._listeners):
            try:
                if hasattr(listener, event):
                    getattr(listener, event)(*arguments)
            except Exception as error:
                self._listeners.remove(listener)
                with suppress(Exception):
                    listener.close()
                name = type(listener).__name__
                self.message(
                    f"warning: {name} failed ({type(error).__name__}: {error}) and receives "
                    "no more records in this process. Training continues."
                )

    def status(self, state: str, reason: str | None, position: dict[str, Any]) -> None:
        """Replaces status.json."""
        # Whether episodes repeat is tried when a run first evaluates.
        resume = "exact" if self.last_evaluation else "not tried"
        if self.unrepeatable is not None:
            resume = f"approximate: {self.unrepeatable}"
        content = {
            "state": state,
            "reason": reason,
            **position,
            "wall_time_s": self.wall_time_s,
            "last_evaluation": self.last_evaluation,
            "failed_seeds": {seed: asdict(failed) for seed, failed in self.failed_seeds.items()},
            "resume": resume,
            "process": self._process,
        }
        self._attempt(partial(write_json, self._directory.status_file, content))

    def leave(self, text: str) -> None:
        """Prints a last message before the process ends at once."""
        self._notify("leave")
        with suppress(OSError, ValueError):
            print(text, flush=True)

    def close(self) -> None:
        """Closes files and listeners."""
        for file in self._files.values():
            file.close()
        self._notify("close")
