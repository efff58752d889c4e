"""The folder of a run: where its files are, and who may write them."""

import datetime
import itertools
import platform
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock
import jax

import dime
from dime.errors import DimeError, require
from dime.training.checkpoint.writer import CheckpointFolder
from dime.training.config import RunConfig, require_version
from dime.training.process import is_gone
from dime.training.records import read_json, signed, write_json

_VERSIONS_OF = ("jax", "jaxlib", "equinox", "optax", "numpy", "gymnasium", "mujoco", "dm-control")
_DEAD = "its process is gone: killed, or the machine crashed; dime resume continues the run"


class TakenError(DimeError):
    """The run directory already exists and is not empty."""


class RunDirectory:
    """Paths and small files of one run."""

    def __init__(self, path: Path):
        self.path = path
        place = path.absolute()  # the process may change its folder
        self.config_file = place / "config.json"
        self.status_file = place / "status.json"
        self.metrics_file = place / "metrics.jsonl"
        self.evaluations_file = place / "evaluations.jsonl"
        self.discarded_file = place / "discarded.jsonl"
        self.provenance_file = place / "provenance.json"
        self.tensorboard_folder = place / "tensorboard"
        self.failures_folder = place / "failures"
        self.checkpoints = CheckpointFolder(place / "checkpoints")

    def refuse_if_taken(self) -> None:
        """Raises `TakenError` if something is there already."""
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise TakenError(
                f"{self.path} exists already. Resume it (dime resume {self.path}) if it is a run, "
                "or choose another place (--run-dir)."
            )

    @classmethod
    def create(cls, path: Path, config: dict[str, Any]) -> "RunDirectory":
        """Makes the folder with its config in it, whole or not at all; or fills an empty one."""
        directory = cls(path)
        directory.refuse_if_taken()
        # An empty folder may be a mount point or the current one: it is not replaced.
        hidden = None if path.exists() else path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        place = cls(hidden) if hidden else directory
        made = False
        try:
            place.checkpoints.folder.mkdir(parents=True)
            made = True
            place.write_config(config)
            if hidden:
                hidden.rename(path)  # refused if another process was quicker
        except OSError as error:
            if made or hidden:
                shutil.rmtree(hidden or place.checkpoints.folder, ignore_errors=True)
            directory.refuse_if_taken()
            raise DimeError(
                f"{path} cannot be made ({error.strerror}). Choose another place (--run-dir)."
            ) from error
        return directory

    @classmethod
    def create_default(cls, env: str, algorithm: str, config: dict[str, Any]) -> "RunDirectory":
        """Makes `runs/ENV/ALGORITHM/<date-time>`, or the same with -2, -3, ... if that is taken."""
        place = Path("runs", *env.replace(":", "/").split("/"), algorithm)
        stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        for number in itertools.count(1):
            with suppress(TakenError):
                return cls.create(place / (stamp if number == 1 else f"{stamp}-{number}"), config)
        raise AssertionError("there is always another name")

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """An existing run; refuses a folder that is none, or one of a newer release."""
        directory = cls(path)
        if not directory.config_file.is_file():
            raise DimeError(f"{path} is not a run: it has no config.json.")
        directory.config()
        return directory

    def refuse_what_is_no_file(self) -> None:
        """Raises `DimeError` if a folder, a pipe or a device is in the place of a run's file."""
        own = [self.metrics_file, self.evaluations_file, self.discarded_file]
        for file in [*own, self.provenance_file, self.status_file, self.path / ".lock"]:
            require(
                file.is_file() or not file.exists(),
                f"{file} is not a file. Put the file back, or move away what is there.",
            )

    def write_config(self, config: dict[str, Any]) -> None:
        """Writes config.json, with a SHA-256 of itself."""
        write_json(self.config_file, signed(config))

    def config(self) -> dict[str, Any]:
        """The content of config.json, verified if it has a SHA-256, as it has in recent releases.

        Raises `DimeError` if it is damaged, not a run's, or of a newer release.
        """
        try:
            config = read_json(self.config_file)
            version = config["format_version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DimeError(f"{self.config_file} is damaged or not a run's config.") from error
        require_version(version, self.path)
        found = config.pop("sha256", None)
        require(
            found in (None, signed(config)["sha256"]),
            f"{self.config_file} is damaged: its content does not match its SHA-256. If you "
            'changed it yourself, delete its entry "sha256".',
        )
        return config

    def run_config(self) -> RunConfig:
        """The run's config. Raises `DimeError` that names the file if this release refuses it."""
        content = self.config()
        try:
            return RunConfig.from_json(content)
        except DimeError as error:
            raise DimeError(f"{self.config_file}: {error}") from error

    def status(self) -> dict[str, Any]:
        """The content of status.json, or nothing before the first is written.

        The state is `dead` if it says `running` and the process is gone.
        """
        with suppress(OSError, ValueError):
            status = read_json(self.status_file)
            silent_s = time.time() - self.status_file.stat().st_mtime
            if isinstance(status, dict):
                if status.get("state") == "running" and is_gone(status.get("process"), silent_s):
                    status |= {"state": "dead", "reason": _DEAD}
                return status
        return {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from writing the same run."""
        lock = filelock.FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise DimeError(f"Another process is training in {self.path}.") from error
        try:
            yield
        finally:
            lock.release()

    def add_provenance(self, env_step: int) -> None:
        """Notes what this process runs on and where in the run it begins."""
        starts = []
        with suppress(OSError, ValueError, KeyError, TypeError):  # not there yet, or damaged
            known = read_json(self.provenance_file)["starts"]
            starts = known if isinstance(known, list) else []
        start = {
            "env_step": env_step,
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": sys.argv,
            "dime": dime.__version__,
            "git_commit": _git_commit(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": jax.devices()[0].device_kind,
            "backend": jax.default_backend(),
            "versions": {name: metadata.version(name) for name in _VERSIONS_OF},
        }
        write_json(self.provenance_file, {"starts": [*starts, start]})


def _git_commit() -> str | None:
    """The commit of the checkout that the package runs from, with a `+` if it was changed."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    where, muted = Path(__file__).parent, subprocess.DEVNULL
    try:
        return subprocess.check_output(
            command, cwd=where, text=True, stderr=muted, timeout=10
        ).strip()
    except (OSError, subprocess.SubprocessError):
        return None
