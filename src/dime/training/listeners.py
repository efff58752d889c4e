"""What receives a run's records: TensorBoard, Weights & Biases, the display of its progress.

A listener has those methods that it uses: `step(env_step)`, `record(record)`, `message(text)`,
`close()` at the end of a run, `leave()` before the process ends at once.
"""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from statistics import fmean
from typing import Any

import rich.console
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

from dime.errors import DimeError, describe
from dime.training.records import write_bytes

Record = dict[str, Any]


def _scalars(record: Record) -> dict[str, float]:
    """A record's numbers by name, those of vectors by index; of an evaluation the means."""
    if "mode" in record:
        names = ("returns", "lengths", "success_any", "success_last")
        means = {name: fmean(record[name]) for name in names if record[name] is not None}
        return {f"evaluation/{record['mode']}/{name}": mean for name, mean in means.items()}
    scalars: dict[str, float] = {}
    for name in record.keys() - {"env_step", "seed"}:
        is_vector = isinstance(record[name], list)
        for index, item in enumerate(record[name] if is_vector else [record[name]]):
            if isinstance(item, int | float):
                scalars[f"train/{name}/{index}" if is_vector else f"train/{name}"] = item
    return scalars


class TensorBoard:
    """Event files, a folder per seed.

    Written without tensorboardX's `SummaryWriter`, whose thread dies on a full disk and then
    blocks whoever adds an event.
    """

    def __init__(self, folder: Path, seeds: tuple[int, ...]):
        self._writers: dict[int, EventsWriter] = {}
        for seed in seeds:
            place = folder / f"seed-{seed}"
            place.mkdir(parents=True, exist_ok=True)
            # The name holds the time in seconds; the suffix keeps two starts in one second apart.
            suffix = f".{len(list(place.iterdir()))}"
            self._writers[seed] = EventsWriter(str(place / "events"), suffix)

    def record(self, record: Record) -> None:
        """Adds the record's numbers."""
        values = [Summary.Value(tag=tag, simple_value=v) for tag, v in _scalars(record).items()]
        summary = Summary(value=values)
        writer = self._writers[record["seed"]]
        writer.write_event(Event(step=record["env_step"], wall_time=time.time(), summary=summary))
        writer.flush()

    def close(self) -> None:
        """Closes the files."""
        for writer in self._writers.values():
            writer.close()


@contextmanager
def _explained() -> Iterator[None]:
    """Inside, any error of Weights & Biases becomes a `DimeError`."""
    try:
        yield
    except Exception as error:
        raise DimeError(
            f"wandb_project is set, but Weights & Biases cannot be used ({describe(error)}). "
            "Install it (pip install 'dime-rl[wandb]'), log in (wandb login), log without a "
            "network (WANDB_MODE=offline), or leave wandb_project out."
        ) from error


class WeightsAndBiases:
    """Logs to a project of Weights & Biases; a resumed run continues the same one there."""

    @staticmethod
    def require_ready() -> None:
        """Raises `DimeError` if the package is missing, or nobody is logged in."""
        with _explained():
            import wandb

            wandb.login()  # in a terminal it asks for the key

    def __init__(self, project: str, run_dir: Path, config: dict[str, Any]):
        id_file = run_dir / "wandb_id.txt"
        if not id_file.exists():
            write_bytes(id_file, uuid.uuid4().hex.encode())
        with _explained():
            import wandb

            self._run = wandb.init(
                project=project,
                name=run_dir.name,
                id=id_file.read_text(encoding="utf-8-sig").strip(),
                resume="allow",
                config=config,
                dir=str(run_dir),
            )

    def record(self, record: Record) -> None:
        """Logs the record's numbers."""
        prefix = f"seed-{record['seed']}/"
        named = {prefix + name: value for name, value in _scalars(record).items()}
        self._run.log({"env_step": record["env_step"], **named})

    def close(self) -> None:
        """Finishes the upload."""
        self._run.finish()


def return_text(value: float) -> str:
    """A return with the digits that matter.

    >>> [return_text(value) for value in (-1234.56, 9.876, 0.0, -3.2456e-06, 5e10)]
    ['-1234.6', '9.88', '0.0', '-3.25e-06', '5e+10']
    """
    return f"{value:.1f}" if value == 0.0 or 10.0 <= abs(value) < 1e7 else f"{value:.3g}"


class Progress:
    """How far the run is: one line at the bottom of a terminal, or a line every ten seconds."""

    def __init__(self, num_env_steps: int):
        self._num_env_steps = num_env_steps
        self._rate = 0.0  # env steps per second since the last refresh, smoothed
        self._returns: dict[int, float] = {}  # of each seed's newest training episode
        self._refreshed: tuple[float, int] | None = None  # when, and the env step
        self._console = rich.console.Console()
        self._line = self._console.status("starting") if self._console.is_terminal else None
        if self._line is not None:
            self._line.start()

    def step(self, env_step: int) -> None:
        """Refreshes the display when it is time."""
        now = time.monotonic()
        if self._refreshed is None:
            self._refreshed = now, env_step
        elapsed = now - self._refreshed[0]
        if elapsed >= (0.25 if self._line else 10.0):
            newest = (env_step - self._refreshed[1]) / elapsed
            self._rate = 0.5 * (self._rate or newest) + 0.5 * newest
            self._refreshed = now, env_step
            self._refresh(env_step)

    def _refresh(self, env_step: int) -> None:
        mean = return_text(fmean(self._returns.values())) if self._returns else "-"
        left = "-"
        if self._rate > 0.0:
            left = timedelta(seconds=int((self._num_env_steps - env_step) / self._rate))
        text = (
            f"env step {env_step:>7,} of {self._num_env_steps:,}  return {mean}  "
            f"{self._rate:.1f} env steps/s  {left} left"
        )
        self.message(text) if self._line is None else self._line.update(text)

    def record(self, record: Record) -> None:
        """Shows an evaluation; remembers the newest episode's return."""
        if "mode" not in record:
            if record["episode_return"] is not None:
                self._returns[record["seed"]] = record["episode_return"]
            return
        mean, count = return_text(fmean(record["returns"])), len(record["returns"])
        self.message(
            f"env step {record['env_step']:>7,} seed {record['seed']}: return {mean} "
            f"({record['mode']}, mean of {count} episodes)"
        )
        self._refreshed = None  # the pause is not part of the rate

    def message(self, text: str) -> None:
        """Prints it, in a terminal above the line."""
        if self._line is None:
            print(text, flush=True)
        else:
            self._console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Removes the line, and gives the terminal its cursor back."""
        if self._line is not None:
            self._line.stop()

    leave = close
