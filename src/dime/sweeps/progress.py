"""How far a sweep is: a table in a terminal, lines elsewhere."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich.console
import rich.live
import rich.table
from ray import tune

from dime.sweeps.study import Trial
from dime.training.listeners import duration, return_text

_LINE_EVERY_S = 30.0
_MAX_ROWS = 12


@dataclass
class _State:
    num_env_steps: int
    state: str = "waiting"
    env_step: int = 0
    score: float | None = None
    attempt: int = 0
    began: tuple[float, int] | None = None

    @property
    def rate(self) -> float:
        """Env steps per second since this attempt's first report."""
        if self.began is None:
            return 0.0
        elapsed = time.monotonic() - self.began[0]
        return (self.env_step - self.began[1]) / elapsed if elapsed > 1.0 else 0.0

    @property
    def shown(self) -> tuple[str, str, str, str]:
        """State, env step, return, time left."""
        left = "-"
        if self.state == "training" and self.rate > 0.0:
            left = duration((self.num_env_steps - self.env_step) / self.rate)
        score = "-" if self.score is None else return_text(self.score)
        again = f" (attempt {self.attempt})" if self.attempt > 1 else ""
        return f"{self.state}{again}", f"{self.env_step:,}", score, left


class SweepProgress(tune.Callback):
    """Hears of all trials and says how far they are.

    Attributes:
        errors: of trials that failed for good, what Ray knows of it.
    """

    def __init__(self, trials: list[Trial], finished: int, quiet: bool):
        self._states = {t.name: _State(t.config.training.num_env_steps) for t in trials}
        self._finished_before = finished
        self.errors: dict[str, str] = {}
        self._quiet = quiet
        self._console = rich.console.Console()
        self._live: rich.live.Live | None = None
        self._shown_at = time.monotonic()
        if finished and not quiet:
            self._console.print(f"{finished} trials have finished before.", highlight=False)
        if self._console.is_terminal and not quiet:
            self._live = rich.live.Live(self._table(), console=self._console, transient=True)
            self._live.start()

    @property
    def interrupted(self) -> bool:
        """Whether trials were left that had neither ended nor failed."""
        return any(state.state not in ("finished", "failed") for state in self._states.values())

    def __getstate__(self) -> dict[str, Any]:
        """Without the screen: Ray pickles its callbacks together with its state."""
        return {"_states": self._states}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker begins a trial, or begins it again."""
        state = self._state(trial)
        state.attempt += 1
        state.state, state.began = "training", None
        self._say(trial, "begins" if state.attempt == 1 else "is resumed")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A record of a trial."""
        state = self._state(trial)
        if "env_step" not in result:  # Ray's own last word
            return
        state.env_step = result["env_step"]
        state.score = result["score"] if result["score"] is not None else state.score
        if state.began is None:
            state.began = time.monotonic(), state.env_step
        self._refresh()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended well."""
        state = self._state(trial)
        state.state = "finished"
        self._say(trial, f"finished, return {state.shown[2]}")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed, or its worker died, and is begun again."""
        self._state(trial).state = "failed, begins again"
        self._say(trial, "failed and is begun again")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed for good."""
        self._state(trial).state = "failed"
        file = trial.error_file
        known = Path(file).read_text() if file and Path(file).is_file() else "its worker died"
        self.errors[self.name_of(trial)] = known
        self._say(trial, "failed")

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Nothing runs any more."""
        if self._live is not None:
            self._live.stop()

    def _state(self, trial: Any) -> _State:
        name = self.name_of(trial)
        if name not in self._states:
            self._states[name] = _State(self.planned_steps(trial))
        return self._states[name]

    def planned_steps(self, trial: Any) -> int:
        """Env steps of a trial that was not known when the sweep began."""
        return 0

    def name_of(self, trial: Any) -> str:
        """Our name of one of Ray's trials."""
        return trial.config["trial"]["name"]

    def _say(self, trial: Any, what: str) -> None:
        if not self._quiet:
            text = f"{self.name_of(trial)} {what}"
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)
        self._refresh()

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(self._table())
        elif not self._quiet and time.monotonic() - self._shown_at >= _LINE_EVERY_S:
            self._shown_at = time.monotonic()
            for name, state in self._states.items():
                if state.state == "training":
                    what, env_step, score, left = state.shown
                    of = f"{env_step} of {state.num_env_steps:,}"
                    print(f"{name}: env step {of}, return {score}, {left} left", flush=True)

    def _table(self) -> rich.table.Table:
        counts = {"finished": self._finished_before, "training": 0, "waiting": 0, "failed": 0}
        for state in self._states.values():
            counts[state.state.partition(",")[0]] += 1
        title = ", ".join(f"{count} {state}" for state, count in counts.items())
        table = rich.table.Table(title=title, title_justify="left", box=None)
        for column in ("trial", "state", "env step", "return", "left"):
            table.add_column(column, overflow="fold" if column == "trial" else "ellipsis")
        running = [item for item in self._states.items() if item[1].state == "training"]
        for name, state in running[:_MAX_ROWS]:
            table.add_row(name, *state.shown)
        if len(running) > _MAX_ROWS:
            table.add_row(f"and {len(running) - _MAX_ROWS} more")
        return table
