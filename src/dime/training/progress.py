"""What a run shows while it goes: a bar in a terminal, timed lines elsewhere."""

import time
from statistics import fmean

import rich.console
import rich.progress

from dime.training.listeners import Listener, Record

_LINE_EVERY_S = 10.0
_REFRESH_EVERY_S = 0.25


def duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> duration(75), duration(3675)
    ('1:15', '1:01:15')
    """
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def return_text(value: float) -> str:
    """A return with the digits that matter.

    >>> [return_text(value) for value in (-1234.56, 9.876, 0.0, -3.2456e-06, 5e10)]
    ['-1234.6', '9.88', '0.0', '-3.25e-06', '5e+10']
    """
    return f"{value:.1f}" if value == 0.0 or 10.0 <= abs(value) < 1e7 else f"{value:.3g}"


class _Watch(Listener):
    """What both displays need: position, newest return, rate."""

    interval = _REFRESH_EVERY_S

    def __init__(self, env_step: int, num_env_steps: int, num_seeds: int):
        self._num_seeds = num_seeds
        self.env_step = self._first_step = env_step
        self.num_env_steps = num_env_steps
        self.rate = 0.0  # env steps per second since the last refresh, smoothed
        self._returns: dict[int, float] = {}
        self._evaluated: dict[tuple[int, str], list[float]] = {}
        self._refreshed_at: float | None = None
        self._refreshed_step = env_step

    def step(self, env_step: int) -> None:
        """Refreshes the display when it is time."""
        self.env_step = env_step
        now = time.monotonic()
        if self._refreshed_at is None:
            self._refreshed_at, self._refreshed_step = now, env_step
        elapsed = now - self._refreshed_at
        if elapsed >= self.interval:
            newest = (env_step - self._refreshed_step) / elapsed
            self.rate = newest if self.rate == 0.0 else 0.5 * self.rate + 0.5 * newest
            self._refreshed_at, self._refreshed_step = now, env_step
            self.refresh()

    def refresh(self) -> None:
        """Shows the present position."""

    def metrics(self, record: Record) -> None:
        """Remembers the newest episode's return."""
        if record["episode_return"] is not None:
            self._returns[record["seed"]] = record["episode_return"]

    def evaluation(self, record: Record) -> None:
        """Shows an evaluation."""
        seed = f" seed {record['seed']}" if self._num_seeds > 1 else ""
        mean, count = return_text(fmean(record["returns"])), len(record["returns"])
        self.message(
            f"env step {record['env_step']:>7,}{seed}: return {mean} ({record['mode']}, mean of "
            f"{count} episodes)"
        )
        self._refreshed_at = None  # the pause is not part of the rate

    @property
    def newest_return(self) -> str:
        """Mean over the seeds of the newest training episode's return."""
        return return_text(fmean(self._returns.values())) if self._returns else "-"

    @property
    def time_left(self) -> str:
        """At the present rate, evaluations not counted."""
        if self.rate <= 0.0:
            return "-"
        return duration((self.num_env_steps - self.env_step) / self.rate)


class PlainProgress(_Watch):
    """A line every ten seconds."""

    interval = _LINE_EVERY_S

    def refresh(self) -> None:
        """Prints the line."""
        print(
            f"env step {self.env_step:>7,} of {self.num_env_steps:,}  return {self.newest_return}  "
            f"{self.rate:.1f} env steps/s  {self.time_left} left",
            flush=True,
        )

    def message(self, text: str) -> None:
        """Prints it."""
        print(text, flush=True)


class TerminalProgress(_Watch):
    """A bar at the bottom of the terminal."""

    def __init__(
        self, env_step: int, num_env_steps: int, num_seeds: int, console: rich.console.Console
    ):
        super().__init__(env_step, num_env_steps, num_seeds)
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[shown]}"),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task(
            "starting", total=num_env_steps, completed=env_step, shown=""
        )
        self._bar.start()

    def refresh(self) -> None:
        """Moves the bar."""
        shown = f"return {self.newest_return}  {self.rate:.1f} env steps/s  {self.time_left} left"
        self._bar.update(self._task, completed=self.env_step, shown=shown, description="training")

    def message(self, text: str) -> None:
        """Prints it above the bar."""
        self._bar.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Takes the bar away."""
        self._bar.stop()

    def leave(self) -> None:
        """Gives the terminal its cursor back."""
        self._bar.stop()


def make_progress(env_step: int, num_env_steps: int, num_seeds: int) -> Listener:
    """The display that fits where the output goes."""
    console = rich.console.Console()
    if console.is_terminal:
        return TerminalProgress(env_step, num_env_steps, num_seeds, console)
    return PlainProgress(env_step, num_env_steps, num_seeds)
