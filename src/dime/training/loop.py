"""The loop of a run: env steps, and what is due between them."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from dime.training.allocator import freed_memory_kept
from dime.training.checkpoint.checkpoint import Checkpoint, bytes_on_disk, explain_full_disk
from dime.training.checkpoint.replay_files import ReplaySaver
from dime.training.config import TrainingConfig
from dime.training.failures import SeedFailure, save_failure
from dime.training.garbage import collector_paused
from dime.training.host.evaluation import EpisodeError, evaluation_seeds, summary
from dime.training.learners import Compiling, Learners
from dime.training.listeners import Record
from dime.training.recorder import Recorder
from dime.training.repeats import repeat_warning
from dime.training.restarts import TellOfRestart
from dime.training.run_directory import RunDirectory
from dime.training.signals import Interruption
from dime.training.support import SupportWatch


@dataclass(frozen=True)
class RunResult:
    """How a run, or this process's part of it, ended."""

    run_dir: Path
    state: str
    """`finished`, `interrupted` or `failed`."""
    reason: str | None
    env_step: int
    signal: int | None = None
    """The signal that interrupted it."""


class _Stop(Exception):
    """The run was asked to stop."""

    def __init__(self, reason: str, number: int | None = None):
        super().__init__(reason)
        self.reason, self.number = reason, number


class _AllFailed(Exception):
    """No seed is left."""


_NOT_SAVED = "the last checkpoint could not be written"

MakeLearners = Callable[[Compiling, TellOfRestart], Learners]


class Loop:
    """One process's part of a run. `interruption` must be entered around `run`."""

    def __init__(
        self,
        config: TrainingConfig,
        directory: RunDirectory,
        make_learners: MakeLearners,
        recorder: Recorder,
    ):
        self.config = config
        self.directory = directory
        self.recorder = recorder
        self.interruption = Interruption(self._leave)
        self.learners = make_learners(self._compiling, recorder.restart_of_environment)
        self._replay_saver = ReplaySaver(directory.checkpoints)
        self._support_watch = SupportWatch()
        self._last_evaluation_step: int | None = None
        self._last_saved: tuple[int, int | None, dict[str, int]] | None = None

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Continues from a checkpoint; newer records are set aside."""
        for note in self.recorder.restore(checkpoint.run):
            self.recorder.message(note)
        warnings, failures = self.learners.restore(checkpoint)
        for warning in warnings:
            self.recorder.message(f"warning: {warning}")
        self._replay_saver = ReplaySaver(self.directory.checkpoints, checkpoint.segments)
        self._last_evaluation_step = checkpoint.run["last_evaluation_step"]
        self._last_saved = self._position()
        self._note_failures(failures)

    def run(self, checkpoint: Checkpoint | None) -> RunResult:
        """Runs until the end, a signal, the callback's wish, or the failure of every seed.

        From `checkpoint`, or from env step 0 where there is none.
        """
        try:
            if checkpoint is not None:
                self._restore(checkpoint)
                self._status("running")
            else:
                self._status("running")
                self.recorder.restart()
                self._note_failures(self.learners.begin())
            self.recorder.start()
            with freed_memory_kept():
                self._repeat()
            return self._finished()
        except _AllFailed:
            return self._result("failed", self._failures())
        except _Stop as stop:
            if not self._save():
                return self._result("failed", f"{stop.reason}, and {_NOT_SAVED}")
            return self._result("interrupted", stop.reason, stop.number)
        except BaseException as error:
            self._status("failed", f"{type(error).__name__}: {error}")
            raise
        finally:
            self.learners.close()

    def _repeat(self) -> None:
        while True:
            self._evaluate_if_due()
            self._stop_if_asked()
            self._save_if_due()
            if self.learners.env_step >= self.config.num_env_steps:
                return
            self._note_failures(self.learners.step(self._steps_until_due()))
            self.recorder.step(self.learners.env_step)
            self._record_if_due()

    def _finished(self) -> RunResult:
        if not self._save():
            return self._result("failed", _NOT_SAVED)
        if self.recorder.failed_seeds:
            return self._result("failed", self._failures())
        return self._result("finished")

    def _failures(self) -> str:
        failed = self.recorder.failed_seeds.items()
        return "; ".join(f"seed {seed}: {failure['reason']}" for seed, failure in failed)

    def _result(
        self, state: str, reason: str | None = None, number: int | None = None
    ) -> RunResult:
        self._status(state, reason)
        return RunResult(self.directory.path, state, reason, self.learners.env_step, number)

    def _status(self, state: str, reason: str | None = None) -> None:
        saved = self._last_saved[0] if self._last_saved else None
        self.recorder.status(state, self.learners.env_step, self.learners.update, saved, reason)

    @contextmanager
    def _compiling(self) -> Iterator[None]:
        """Inside, a signal ends the process at once: the newest checkpoint has everything."""
        self.recorder.message("compiling")
        with self.interruption.leaving_at_once(), collector_paused():
            yield

    def _leave(self, number: int) -> None:
        name = signal.Signals(number).name
        if self.interruption.nothing_to_save:
            self._status("interrupted", f"{name} during compilation")
            text = f"Stopped by {name} during compilation; there was nothing to save."
        else:
            text = f"Left at the second signal ({name}), perhaps before all was saved."
        self.recorder.leave(f"{text} Continue with: dime resume {self.directory.path}")

    def _stop_if_asked(self) -> None:
        number = self.interruption.requested
        if number is not None:
            raise _Stop(signal.Signals(number).name, number)
        if self.recorder.stop_requested:
            raise _Stop("stopped by the callback")

    def _due(self, interval: int) -> bool:
        env_step = self.learners.env_step
        return env_step % interval == 0 or env_step == self.config.num_env_steps

    def _steps_until_due(self) -> int:
        """After so many env steps there is something to do between them."""
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
        self._note_unrepeatable()
        self._last_evaluation_step = env_step
        self._status("running")

    def _note_unrepeatable(self) -> None:
        reason = self.learners.unrepeatable
        if reason is not None and self.recorder.unrepeatable is None:
            self.recorder.message(repeat_warning(self.learners.env_name, reason))
            self.recorder.unrepeatable = reason

    def _evaluate(self, mode: str) -> list[Record]:
        """The record of every seed; a seed whose environment fails is taken out."""
        while True:
            env_step, seeds = self.learners.env_step, self.learners.seeds
            count = self.config.num_evaluation_episodes
            try:
                results = self.learners.evaluate(
                    mode,
                    [evaluation_seeds(seed, env_step, count) for seed in seeds],
                    stopped=lambda: self.interruption.requested is not None,
                )
            except EpisodeError as error:
                self._note_failures(self.learners.after_failed_episode(error))
                continue
            if results is None:
                self._stop_if_asked()
            break
        position = {"env_step": env_step, "updates": self.learners.update}
        return [
            {**position, "seed": seed, "mode": mode, **summary(episodes)}
            for seed, episodes in zip(seeds, results or [], strict=True)
        ]

    def _record_if_due(self) -> None:
        if not self._due(self.config.log_every):
            return
        metrics = jax.device_get(self.learners.metrics) or {}
        lines = []
        for index, (seed, episode) in enumerate(
            zip(self.learners.seeds, self.learners.episodes(), strict=True)
        ):
            measured = {name: np.asarray(value[index]).tolist() for name, value in metrics.items()}
            lines.append(
                {
                    "seed": seed,
                    "episodes": episode["number"],
                    "episode_return": episode["last_return"],
                    "episode_length": episode["last_length"],
                    **measured,
                }
            )
            if warning := self._support_watch.warning(seed, measured):
                self.recorder.message(warning)
        self.recorder.metrics(self.learners.env_step, self.learners.update, lines)
        self._status("running")

    def _note_failures(self, failures: dict[int, SeedFailure]) -> None:
        all_failed = set(failures) >= set(self.learners.seeds)
        poisoned = any(failure.poisoned for failure in failures.values())
        if all_failed and self.learners.env_step > 0 and not poisoned:
            self._save()  # before they are noted: resumed with a mended environment, they go on
        for seed, failure in failures.items():
            noted = {"env_step": failure.env_step, "reason": failure.reason}
            self.recorder.failed_seeds[str(seed)] = noted
            self.recorder.message(f"seed {seed} failed: {failure.reason}\n{failure.details}")
            try:
                place = save_failure(self.directory.failures_folder, seed, failure)
                self.recorder.message(f"Its state is kept in {place}.")
            except OSError as error:
                self.recorder.message(f"warning: its state could not be kept: {error}")
        if all_failed:
            raise _AllFailed

    def _save_if_due(self) -> None:
        if self._due(self.config.checkpoint_every):
            self._save()

    def _position(self) -> tuple[int, int | None, dict[str, int]]:
        """What makes a checkpoint another one."""
        restarts = dict(self.recorder.env_restarts)
        return self.learners.env_step, self._last_evaluation_step, restarts

    def _save(self) -> bool:
        """Writes a checkpoint unless the newest one holds the same.

        False where the disk did not take it, which stops nothing: the next interval tries again.
        """
        env_step, position = self.learners.env_step, self._position()
        if position == self._last_saved:
            return True
        state, episodes, run = self.learners.snapshot()
        try:
            run |= {"last_evaluation_step": self._last_evaluation_step, **self.recorder.position()}
            segments = self._replay_saver.save(self.learners.replay, env_step, self.learners.seeds)
            self.directory.checkpoints.save(state, episodes, run, segments)
        except OSError as error:
            needed = bytes_on_disk(state) + bytes_on_disk(episodes)
            needed += self._replay_saver.unsaved_bytes(self.learners.replay, env_step)
            told = explain_full_disk(error, self.directory.checkpoints.folder, needed)
            self.recorder.message(f"warning: no checkpoint at env step {env_step}: {told}")
            return False
        self._last_saved = position
        return True
