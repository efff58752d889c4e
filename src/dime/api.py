"""Training runs as functions: what `dime.train` and `dime.resume` do."""

import dataclasses
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dime.envs.registry import make
from dime.errors import DimeError, choose
from dime.experiments.presets import (
    PRESETS,
    lacks_support,
    preset_settings,
    preset_training,
    refuse_unknown_support,
)
from dime.training.config import RunConfig, TrainingConfig, replace_nested
from dime.training.listeners import Record
from dime.training.loop import RunResult
from dime.training.run import Audience, EnvLike, resume_run, start_run
from dime.training.run_directory import default_run_dir
from dime.training.signals import EXIT_SAVED

Callback = Callable[[Record], Any]


_OF_TRAIN = {"env", "algorithm", "preset", "config", "run_dir", "env_kwargs", "video"}


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
        run_dir: where the run goes, a place where nothing stands yet; by default
            `runs/ENV/ALGORITHM/<date-time>`.
        env_kwargs: passed to the environment.
        callback: hears every record, a line of metrics.jsonl or evaluations.jsonl; the run is
            saved and stopped when it answers something true.
        progress: whether to show how far the run is.
        **options: settings of the loop by name (`num_env_steps=2000`, `seeds=(0, 1)`), of the
            algorithm as in its config, nested ones as dicts (`critic={"hidden_dim": 256}`).

    Returns:
        How the run ended.

    Raises:
        DimeError: something asked for cannot be done; nothing was made then.
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
    return checked(run_config(config, env, run_dir, Audience(callback, progress)))


def resume(
    run_dir: str | Path,
    *,
    env: EnvLike | None = None,
    num_env_steps: int | None = None,
    callback: Callback | None = None,
    progress: bool = True,
) -> RunResult:
    """Continues a run from its newest intact checkpoint, bit for bit as if it had never stopped.

    Args:
        run_dir: the run's folder.
        env: needed where the run's environment was passed as an object: the same again.
        num_env_steps: a larger number extends the run.
        callback: as for `train`.
        progress: as for `train`.

    Returns:
        How the run ended.

    Raises:
        DimeError: the folder is not a run, no checkpoint is intact, or the run is complete.
        RunFailedError, KeyboardInterrupt, SystemExit: as for `train`.
    """
    return checked(resume_run(Path(run_dir), env, num_env_steps, Audience(callback, progress)))


def run_config(
    config: RunConfig, env: EnvLike, run_dir: str | Path | None, audience: Audience
) -> RunResult:
    """Runs a config, once the critic's support is known."""
    if lacks_support(config.settings):
        refuse_unknown_support(make(env, config.env_kwargs), config.settings.discount)
    place = Path(run_dir) if run_dir else default_run_dir(config.env, config.algorithm)
    return start_run(config, env, place, audience)


def checked(result: RunResult) -> RunResult:
    """The result of a run that finished; raises what a signal or a failure asks for."""
    if result.signal == signal.SIGINT:
        raise KeyboardInterrupt
    if result.signal is not None:
        raise SystemExit(EXIT_SAVED)
    if result.state == "failed":
        raise RunFailedError(result)
    return result


def _describe(env: EnvLike) -> str:
    """An id, or the name of what makes the environment."""
    return env if isinstance(env, str) else getattr(env, "__name__", type(env).__name__)


def make_config(
    env: EnvLike,
    algorithm: str = "dime",
    preset: str = "paper",
    env_kwargs: dict[str, Any] | None = None,
    **options: Any,
) -> RunConfig:
    """The config of a run: a preset with `options` (as for `train`) in it."""
    choose("preset", preset, PRESETS)
    # A factory's name may be that of an environment that it does not make.
    env_id = env if isinstance(env, str) else ""
    settings = preset_settings(preset, algorithm, env_id)
    of_loop = {field.name for field in dataclasses.fields(TrainingConfig)}
    of_algorithm = {field.name for field in dataclasses.fields(settings)}
    taken = of_algorithm & (of_loop | _OF_TRAIN)
    if taken:
        raise DimeError(
            f"The config of the algorithm '{algorithm}' has a field {min(taken)!r}, which is an "
            "option of every run. Give it another name."
        )
    for name in options:
        choose("option", name, of_loop | of_algorithm)
    for_loop = {name: value for name, value in options.items() if name in of_loop}
    for_algorithm = {name: value for name, value in options.items() if name in of_algorithm}
    return RunConfig(
        env=_describe(env),
        env_kwargs=env_kwargs or {},
        env_is_object=not isinstance(env, str),
        algorithm=algorithm,
        preset=preset,
        training=replace_nested(preset_training(preset, algorithm, env_id), for_loop),
        settings=replace_nested(settings, for_algorithm),
    )
