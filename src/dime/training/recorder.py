"""What a run tells of itself: records, status, and everyone who listens."""

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from dime.training.listeners import Listener, Record
from dime.training.processes import this_process
from dime.training.records import RecordFile, cut_records, write_json
from dime.training.run_directory import RunDirectory


class Recorder:
    """Writes metrics.jsonl, evaluations.jsonl and status.json, and tells the listeners.

    `callback(record)` hears every record too; what it returns asks the run to stop if true.
    """

    def __init__(
        self,
        directory: RunDirectory,
        num_env_steps: int,
        listeners: list[Listener],
        callback: Callable[[Record], Any] | None,
    ):
        self._directory = directory
        self._num_env_steps = num_env_steps
        self._listeners = listeners
        self._callback = callback
        self._process = this_process()
        self._metrics = RecordFile(directory.metrics_file)
        self._evaluations = RecordFile(directory.evaluations_file)
        self._wall_time_before = 0.0
        self._began = self._window_began = time.monotonic()
        self._window_start = (0, 0)
        self.last_evaluation: dict[str, dict[str, float]] = {}
        self.failed_seeds: dict[str, dict[str, Any]] = {}
        self.env_restarts: dict[str, int] = {}
        self.unrepeatable: str | None = None
        self.stop_requested = False

    @property
    def wall_time_s(self) -> float:
        """Seconds that the run took so far, in all its processes."""
        return self._wall_time_before + time.monotonic() - self._began

    def position(self) -> dict[str, Any]:
        """What a checkpoint keeps of the records; they are on the disk when this returns."""
        return {
            "record_bytes": {
                "metrics.jsonl": self._metrics.sync(),
                "evaluations.jsonl": self._evaluations.sync(),
            },
            "wall_time_s": self.wall_time_s,
            "last_evaluation": self.last_evaluation,
            "failed_seeds": self.failed_seeds,
            "env_restarts": self.env_restarts,
            "unrepeatable": self.unrepeatable,
        }

    def restore(self, position: dict[str, Any]) -> list[str]:
        """Cuts the records at a checkpoint's position; returns what there is to say of it."""
        env_step = position["env_step"]
        self._wall_time_before = position["wall_time_s"]
        self.last_evaluation = position["last_evaluation"]
        self.failed_seeds = position["failed_seeds"]
        # Older checkpoints lack these.
        self.env_restarts = position.get("env_restarts", {})
        self.unrepeatable = position.get("unrepeatable")
        self._window_start = (env_step, position["updates"])
        sizes = position["record_bytes"]
        notes = [
            f"warning: {path} is damaged: records of before env step {env_step} are missing."
            for name, size in sizes.items()
            if (path := self._directory.metrics_file.with_name(name)).stat().st_size < size
        ]
        num_cut = self._cut(sizes)
        if num_cut:
            notes.append(
                f"{num_cut} records newer than env step {env_step} went to discarded.jsonl."
            )
        return notes

    def restart(self) -> None:
        """Sets aside the records of a start that never came to a checkpoint."""
        self._cut({"metrics.jsonl": 0, "evaluations.jsonl": 0})

    def _cut(self, sizes: dict[str, int]) -> int:
        return sum(
            cut_records(
                self._directory.metrics_file.with_name(name), size, self._directory.discarded_file
            )
            for name, size in sizes.items()
        )

    def start(self) -> None:
        """Rates are counted from here on (compilation is behind)."""
        self._window_began = time.monotonic()

    def step(self, env_step: int) -> None:
        """An env step was taken."""
        self._each(lambda listener: listener.step(env_step))

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
            self._attempt(partial(self._metrics.append, line))
            self._tell("metrics", line)

    def evaluation(self, record: Record) -> None:
        """Adds a line to evaluations.jsonl."""
        line = {**record, "wall_time_s": self.wall_time_s}
        self._attempt(partial(self._evaluations.append, line))
        by_mode = self.last_evaluation.setdefault(str(record["seed"]), {})
        by_mode[record["mode"]] = float(np.mean(record["returns"]))
        self._tell("evaluation", line)

    def _attempt(self, write: Callable[[], None]) -> None:
        """Writes to the run's folder; a full disk is told of, and stops nothing."""
        try:
            write()
        except OSError as error:
            self.message(f"warning: {error}. Training goes on; the next record tries again.")

    def _tell(self, kind: str, record: Record) -> None:
        self._each(lambda listener: getattr(listener, kind)(record))
        if self._callback is not None and self._callback(dict(record)):
            self.stop_requested = True

    def message(self, text: str) -> None:
        """Something that the user should read."""
        self._each(lambda listener: listener.message(text))

    def restart_of_environment(self, seed: int, count: int, text: str) -> None:
        """An environment of this seed was made anew, for the count-th time."""
        self.env_restarts[str(seed)] = count
        self.message(text)

    def _each(self, tell: Callable[[Listener], None]) -> None:
        """Tells every listener; one that fails is left out from then on.

        A logger's service, its disk, or a terminal that has gone is no reason to stop training.
        """
        for listener in list(self._listeners):
            try:
                tell(listener)
            except Exception as error:
                self._listeners.remove(listener)
                with suppress(Exception):
                    listener.close()
                name = type(listener).__name__
                self.message(
                    f"warning: {name} failed ({type(error).__name__}: {error}) and hears no more "
                    "in this process. Training goes on."
                )

    def status(
        self,
        state: str,
        env_step: int,
        updates: int,
        checkpoint: int | None,
        reason: str | None = None,
    ) -> None:
        """Replaces status.json; `checkpoint` is the env step of the newest one."""
        content = {
            "state": state,
            "reason": reason,
            "env_step": env_step,
            "updates": updates,
            "num_env_steps": self._num_env_steps,
            "checkpoint_env_step": checkpoint,
            "wall_time_s": self.wall_time_s,
            "last_evaluation": self.last_evaluation,
            "failed_seeds": self.failed_seeds,
            "env_restarts": self.env_restarts,
            "resume": self._kind_of_resume(),
            "process": self._process,
        }
        self._attempt(partial(write_json, self._directory.status_file, content))

    def _kind_of_resume(self) -> str:
        """Episodes are repeated as a trial when a run first evaluates, and not before."""
        if self.unrepeatable is not None:
            return f"approximate: {self.unrepeatable}"
        return "exact" if self.last_evaluation else "not tried"

    def leave(self, text: str) -> None:
        """Says a last thing before the process ends at once."""
        self._each(lambda listener: listener.leave())
        with suppress(OSError, ValueError):
            print(text, flush=True)

    def close(self) -> None:
        """Closes files and listeners."""
        self._metrics.close()
        self._evaluations.close()
        self._each(lambda listener: listener.close())
