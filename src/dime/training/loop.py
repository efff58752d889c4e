"""The loop of a run: env steps, and what is due between them."""

import signal
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from dime.training.checkpoint import Checkpoint, FailedSeed, RunState
from dime.training.checkpoint.writer import ReplaySaver, bytes_on_disk, explain_full_disk
from dime.training.config import TrainingConfig
from dime.training.device import DeviceLearners
from dime.training.faults import Event, SeedFailure, SupportWatch, save_failure
from dime.training.host.episodes import repeat_warning
from dime.training.host.evaluation import EpisodeError, evaluation_seeds, summary
from dime.training.host.learners import Learners
from dime.training.listeners import Record
from dime.training.machine import freed_memory_kept
from dime.training.process import Interruption, collector_paused
from dime.training.recorder import Recorder
from dime.training.run_directory import RunDirectory


@dataclass(frozen=True)
class RunResult:
    """How a run, or this process's part of it, ended.

    `state` is `finished`, `interrupted` or `failed`; `signal` is the one that interrupted it.
    """

    run_dir: Path
    state: str
    reason: str | None
    env_step: int
    signal: int | None = None


class _Stop(Exception):
    def __init__(self, reason: str, number: int | None = None):
        super().__init__(reason)
        self.reason, self.number = reason, number


class _AllFailed(Exception):
    """No seed is left."""


_NOT_SAVED = "the last checkpoint could not be written"


class Loop:
    """One process's part of a run. `interruption` must be entered around `run`."""

    def __init__(
        self,
        config: TrainingConfig,
        directory: RunDirectory,
        learners: Learners,
        recorder: Recorder,
    ):
        self.config, self.directory = config, directory
        self.learners, self.recorder = learners, recorder
        self.interruption = Interruption(self._leave)
        self._replay_saver = ReplaySaver(directory.checkpoints)
        self._support_watch = SupportWatch()
        self._last_evaluation_step: int | None = None
        self._last_saved: tuple[int, int | None, dict[str, int]] | None = None

    def run(self, checkpoint: Checkpoint | None) -> RunResult:
        """Runs until the end, a signal, the callback's wish, or the failure of every seed.

        From `checkpoint`, or from env step 0 if there is none.
        """
        try:
            self._begin(checkpoint)
            self.recorder.start()
            with freed_memory_kept():
                self._repeat()
            if not self._save():
                return self._result("failed", _NOT_SAVED)
            failures = self._failures()
            return self._result("failed" if failures else "finished", failures)
        except _AllFailed:
            return self._result("failed", self._failures())
        except _Stop as stop:
            if not self._save():
                return self._result("failed", f"{stop.reason}, and {_NOT_SAVED}")
            return self._result("interrupted", stop.reason, stop.number)
        except BaseException as error:
            self._status("failed", f"{type(error).__name__}: {error}")
            raise

    def _begin(self, checkpoint: Checkpoint | None) -> None:
        if checkpoint is None:
            self._status("running")
            self.recorder.restart()
        else:
            self._replay_saver = ReplaySaver(self.directory.checkpoints, checkpoint.segments)
            self._last_evaluation_step = checkpoint.run.last_evaluation_step
            self._last_saved = self._position()
            self.recorder.restore(checkpoint.run)
        self.recorder.message("compiling")
        # A signal ends the process at once: there is nothing new to save.
        with self.interruption.leaving_at_once(), collector_paused():
            self.learners.compile()
        events = self.learners.begin()
        if checkpoint is not None:
            # Not saved again if all seeds fail at once: the checkpoint has them as they were.
            self._last_saved = self._position()
        self._report(events)
        self._status("running")

    def _repeat(self) -> None:
        while True:
            self._evaluate_if_due()
            self._stop_if_signalled()
            if self.recorder.stop_requested:
                raise _Stop("stopped by the callback")
            if self._due(self.config.checkpoint_every):
                self._save()
            if self.learners.env_step >= self.config.num_env_steps:
                return
            self._report(self.learners.step(self._steps_until_due()))
            self.recorder.step(self.learners.env_step)
            self._record_if_due()

    def _failures(self) -> str | None:
        failed = self.recorder.failed_seeds.items()
        return "; ".join(f"seed {seed}: {failure.reason}" for seed, failure in failed) or None

    def _result(
        self, state: str, reason: str | None = None, number: int | None = None
    ) -> RunResult:
        self._status(state, reason)
        return RunResult(self.directory.path, state, reason, self.learners.env_step, number)

    def _status(self, state: str, reason: str | None = None) -> None:
        saved = self._last_saved[0] if self._last_saved else None
        position = {
            "env_step": self.learners.env_step,
            "updates": self.learners.update,
            "num_env_steps": self.config.num_env_steps,
            "checkpoint_env_step": saved,
            "env_restarts": self.learners.env_restarts,
        }
        self.recorder.status(state, reason, position)

    def _leave(self, number: int) -> None:
        name = signal.Signals(number).name
        if self.interruption.nothing_to_save:
            self._status("interrupted", f"{name} during compilation")
            text = f"Stopped by {name} during compilation; there was nothing to save."
        else:
            text = f"Left at the second signal ({name}), perhaps before all was saved."
        self.recorder.leave(f"{text} Continue with: dime resume {self.directory.path}")

    def _stop_if_signalled(self) -> None:
        if (number := self.interruption.requested) is not None:
            raise _Stop(signal.Signals(number).name, number)

    def _due(self, interval: int) -> bool:
        env_step = self.learners.env_step
        return env_step % interval == 0 or env_step == self.config.num_env_steps

    def _steps_until_due(self) -> int:
        config, env_step = self.config, self.learners.env_step
        intervals = (config.evaluate_every, config.log_every, config.checkpoint_every)
        to_the_end = config.num_env_steps - env_step
        return min(to_the_end, *(every - env_step % every for every in intervals))

    def _evaluate_if_due(self) -> None:
        env_step = self.learners.env_step
        if self._last_evaluation_step == env_step or not self._due(self.config.evaluate_every):
            return
        # Recorded together: an evaluation cut short is repeated, and leaves no record.
        for record in [r for mode in self.config.evaluation_modes for r in self._evaluate(mode)]:
            self.recorder.evaluation(record)
        if self.recorder.unrepeatable is None and (reason := self.learners.unrepeatable):
            self.recorder.message(repeat_warning(self.learners.env_name, reason))
            self.recorder.unrepeatable = reason
        self._last_evaluation_step = env_step
        self._status("running")

    def _evaluate(self, mode: str) -> list[Record]:
        """The record of every seed; a seed whose environment fails is removed."""
        env_step, count = self.learners.env_step, self.config.num_evaluation_episodes
        results = None
        while results is None:
            seeds = [evaluation_seeds(seed, env_step, count) for seed in self.learners.seeds]
            try:
                for results in self.learners.evaluation(mode, seeds):
                    if results is None:
                        self._stop_if_signalled()
            except EpisodeError as error:
                self._report(self.learners.recover(error))
        position = {"env_step": env_step, "updates": self.learners.update}
        return [
            {**position, "seed": seed, "mode": mode, **summary(episodes)}
            for seed, episodes in zip(self.learners.seeds, results, strict=True)
        ]

    def _record_if_due(self) -> None:
        if not self._due(self.config.log_every):
            return
        metrics = jax.device_get(self.learners.metrics) or {}
        lines = []
        episodes = zip(self.learners.seeds, self.learners.episodes(), strict=True)
        for index, (seed, episode) in enumerate(episodes):
            measured = {name: np.asarray(value[index]).tolist() for name, value in metrics.items()}
            line = {"seed": seed, "episodes": episode.number}
            line |= {"episode_return": episode.last_return, "episode_length": episode.last_length}
            lines.append(line | measured)
            if warning := self._support_watch.warning(seed, measured):
                self.recorder.message(warning)
        self.recorder.metrics(self.learners.env_step, self.learners.update, lines)
        self._status("running")

    def _report(self, events: list[Event]) -> None:
        """Shows warnings and failures, and records failures; ends the run if no seed is left."""
        for event in events:
            if isinstance(event, str):
                self.recorder.message(event)
        failures = [event for event in events if isinstance(event, SeedFailure)]
        all_failed = {failure.seed for failure in failures} >= set(self.learners.seeds)
        poisoned = any(failure.poisoned for failure in failures)
        if all_failed and self.learners.env_step > 0 and not poisoned:
            self._save()  # before they are noted: a resume with a fixed environment has them all
        for failure in failures:
            seed = failure.seed
            self.recorder.failed_seeds[str(seed)] = FailedSeed(failure.env_step, failure.reason)
            self.recorder.message(f"seed {seed} failed: {failure.reason}\n{failure.details}")
            try:
                place = save_failure(self.directory.failures_folder, failure)
                self.recorder.message(f"Its state is kept in {place}.")
            except OSError as error:
                self.recorder.message(f"warning: its state could not be kept: {error}")
        if all_failed:
            raise _AllFailed

    def _position(self) -> tuple[int, int | None, dict[str, int]]:
        """Checkpoints that differ in none of this are the same."""
        restarts = dict(self.learners.env_restarts)
        return self.learners.env_step, self._last_evaluation_step, restarts

    def _save(self) -> bool:
        """Writes a checkpoint unless the newest one holds the same.

        False if the disk did not take it, which stops nothing: the next interval tries again.
        """
        learners, position = self.learners, self._position()
        if position == self._last_saved:
            return True
        env_step, metrics = learners.env_step, jax.device_get(learners.metrics)
        state, episodes = learners.snapshot()
        try:
            run = RunState(
                env_step=env_step,
                updates=learners.update,
                seeds=learners.seeds,
                spaces=learners.spaces,
                episodes=learners.episodes(),
                last_evaluation_step=self._last_evaluation_step,
                env_restarts=learners.env_restarts,
                metrics=metrics and {name: np.asarray(metrics[name]).tolist() for name in metrics},
                **self.recorder.position(),
                learnt_env_step=learners.learnt_env_step,
                on_device=isinstance(learners, DeviceLearners),
            )
            segments = self._replay_saver.save(learners.replay, env_step, learners.seeds)
            self.directory.checkpoints.save(state, episodes, run, segments)
        except OSError as error:
            needed = bytes_on_disk(state) + bytes_on_disk(episodes)
            needed += self._replay_saver.unsaved_bytes(learners.replay, env_step)
            reason = explain_full_disk(error, self.directory.checkpoints.folder, needed)
            self.recorder.message(f"warning: no checkpoint at env step {env_step}: {reason}")
            return False
        self._last_saved = position
        return True
