"""Who is told of a run's records: TensorBoard, Weights & Biases, the progress display."""

import importlib.util
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

from dime.errors import DimeError, describe
from dime.training.records import write_bytes

Record = dict[str, Any]


class Listener:
    """Does nothing; a listener overrides what it wants to hear of."""

    def step(self, env_step: int) -> None:
        """An env step was taken."""

    def metrics(self, record: Record) -> None:
        """A line was added to metrics.jsonl."""

    def evaluation(self, record: Record) -> None:
        """A line was added to evaluations.jsonl."""

    def message(self, text: str) -> None:
        """Something the user should read."""

    def close(self) -> None:
        """The run ends."""

    def leave(self) -> None:
        """The process ends at once."""


def _scalars(record: Record) -> dict[str, float]:
    """A record's numbers by name; vectors by name and index."""
    scalars: dict[str, float] = {}
    for name, value in record.items():
        if name in ("env_step", "seed", "mode", "episode_seeds"):
            continue
        values = value if isinstance(value, list) else [value]
        for index, item in enumerate(values):
            if isinstance(item, int | float):
                scalars[f"{name}/{index}" if isinstance(value, list) else name] = item
    return scalars


def _evaluation_scalars(record: Record) -> dict[str, float]:
    """An evaluation's means under the name of its mode."""
    means = {}
    for name in ("returns", "lengths", "success_any", "success_last"):
        if record[name] is not None:
            means[f"evaluation/{record['mode']}/{name}"] = sum(record[name]) / len(record[name])
    return means


class TensorBoard(Listener):
    """Event files, a folder per seed; events from `purge_step` on were cut off and are hidden.

    Written without tensorboardX's `SummaryWriter`, whose thread dies on a full disk and then
    blocks whoever adds an event.
    """

    def __init__(self, folder: Path, seeds: tuple[int, ...], purge_step: int | None):
        self._writers = {seed: _new_events_file(folder / f"seed-{seed}") for seed in seeds}
        if purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            for seed in seeds:
                self._write(seed, Event(step=purge_step, session_log=start))

    def _write(self, seed: int, event: Event) -> None:
        event.wall_time = time.time()
        self._writers[seed].write_event(event)
        self._writers[seed].flush()

    def _add(self, record: Record, scalars: dict[str, float]) -> None:
        values = [Summary.Value(tag=tag, simple_value=v) for tag, v in scalars.items()]
        event = Event(step=record["env_step"], summary=Summary(value=values))
        self._write(record["seed"], event)

    def metrics(self, record: Record) -> None:
        """Adds the record's numbers."""
        self._add(record, {f"train/{name}": v for name, v in _scalars(record).items()})

    def evaluation(self, record: Record) -> None:
        """Adds the evaluation's means."""
        self._add(record, _evaluation_scalars(record))

    def close(self) -> None:
        """Closes the files."""
        for writer in self._writers.values():
            writer.close()


def _new_events_file(folder: Path) -> EventsWriter:
    folder.mkdir(parents=True, exist_ok=True)
    # The name holds the time in seconds; the suffix keeps two starts in one second apart.
    return EventsWriter(str(folder / "events"), f".{len(list(folder.iterdir()))}")


@contextmanager
def _explained() -> Iterator[None]:
    """Inside, an error of Weights & Biases, of whatever kind, becomes a `DimeError`."""
    try:
        yield
    except Exception as error:
        raise DimeError(
            f"wandb_project is set, but Weights & Biases cannot be used ({describe(error)}). Log "
            "in (wandb login), log without a network (WANDB_MODE=offline), or leave wandb_project "
            "out."
        ) from error


class WeightsAndBiases(Listener):
    """Logs to a project of Weights & Biases; a resumed run continues the same one there."""

    @staticmethod
    def require_ready() -> None:
        """Raises `DimeError` where the package is missing, or nobody is logged in."""
        if importlib.util.find_spec("wandb") is None:
            raise DimeError(
                "wandb_project is set, but wandb is not installed: pip install 'dime-rl[wandb]'"
            )
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

    def metrics(self, record: Record) -> None:
        """Logs the record's numbers."""
        self._log(record, {f"train/{name}": v for name, v in _scalars(record).items()})

    def evaluation(self, record: Record) -> None:
        """Logs the evaluation's means."""
        self._log(record, _evaluation_scalars(record))

    def _log(self, record: Record, scalars: dict[str, float]) -> None:
        named = {f"seed-{record['seed']}/{name}": value for name, value in scalars.items()}
        self._run.log({"env_step": record["env_step"], **named})

    def close(self) -> None:
        """Finishes the upload."""
        self._run.finish()
