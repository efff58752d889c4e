"""Training runs as functions: what `dime.train` and `dime.resume` do."""

import signal
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from dime.errors import DimeError, choose
from dime.training.config import EnvLike
from dime.training.listeners import Record
from dime.training.loop import RunResult
from dime.training.make_config import make_config
from dime.training.process import EXIT_SAVED
from dime.training.run import Changes, Hooks, resume_run, start_run

Callback = Callable[[Record], Any]


class RunFailedError(DimeError):
    """At least one seed failed; `result` says how the run ended."""

    def __init__(self, result: RunResult):
        super().__init__(f"The run in {result.run_dir} failed: {result.reason}")
        self.result = result


def train(  # noqa: PLR0913  the public entry; everything past the third is keyword-only
    env: EnvLike,
    algorithm: str = "dime",
    preset: str = "paper",
    *,
    run_dir: str | Path | None = None,
    env_kwargs: dict[str, Any] | None = None,
    callback: Callback | None = None,
    progress: bool = True,
    **options: Any,
) -> RunResult:
    """Trains agents and leaves a run directory.

    Args:
        env: id of an environment (`dime.make_env`), or a function that returns a new
            `gymnasium.Env` at each call.
        algorithm: name of the algorithm (`dime list algorithms`), or `module:NAME` for a
            `dime.Algorithm` of your own.
        preset: what the settings start from: `paper`, `released` or `laptop`.
        run_dir: where the run goes, a folder that does not exist or is empty; by default
            `runs/ENV/ALGORITHM/<date-time>`.
        env_kwargs: passed to the environment.
        callback: receives every record, a line of metrics.jsonl or evaluations.jsonl; the run is
            saved and stopped when it returns something true.
        progress: whether to show how far the run is.
        **options: settings of the loop by name (`num_env_steps=2000`, `seeds=(0, 1)`), of the
            algorithm as in its config, nested ones as dicts (`critic={"hidden_dim": 256}`).

    Returns:
        How the run ended.

    Raises:
        DimeError: the request cannot be fulfilled; no folder was made.
        RunFailedError: a seed failed.
        KeyboardInterrupt, SystemExit: a signal stopped the run, after it was saved.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> result = train("dime/TwoModeBandit-v0", preset="laptop", num_env_steps=60,
    ...     num_random_steps=50, run_dir=f"{folder}/run", progress=False)
    >>> result.state, result.env_step
    ('finished', 60)
    """
    config = make_config(env, algorithm, preset, env_kwargs, **options)
    place = Path(run_dir) if run_dir else None
    return checked(start_run(config, env, place, Hooks(callback, progress)))


def resume(
    run_dir: str | Path,
    *,
    env: EnvLike | None = None,
    callback: Callback | None = None,
    progress: bool = True,
    **changes: Any,
) -> RunResult:
    """Continues a run from its newest intact checkpoint, bit for bit as if it had never stopped.

    Args:
        run_dir: the run's folder.
        env: the run's environment again, if it was passed as an object.
        callback: as for `train`.
        progress: as for `train`.
        **changes: what changes from here on: a larger `num_env_steps` extends the run; a
            larger `max_env_restarts` gives its environments further tries; `env_process` and
            `env_timeout_s` as for `train`.

    Returns:
        How the run ended.

    Raises:
        DimeError: the folder is not a run, no checkpoint is intact, or the run is complete.
        RunFailedError, KeyboardInterrupt, SystemExit: as for `train`.
    """
    known = [field.name for field in fields(Changes)]
    for name in changes:
        choose("option of a resumed run", name, known)
    return checked(resume_run(Path(run_dir), env, Changes(**changes), Hooks(callback, progress)))


def checked(result: RunResult) -> RunResult:
    """The result of a run that finished; raises if a signal stopped it or it failed."""
    if result.signal == signal.SIGINT:
        raise KeyboardInterrupt
    if result.signal is not None:
        raise SystemExit(EXIT_SAVED)
    if result.state == "failed":
        raise RunFailedError(result)
    return result
