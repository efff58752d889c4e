"""Starting and resuming a run: from a config, or from what a run directory holds."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dime.algorithms.registry import ALGORITHMS
from dime.envs.environment import Environment
from dime.envs.registry import make
from dime.errors import DimeError
from dime.training.checkpoint import Checkpoint
from dime.training.config import RunConfig, replace_nested
from dime.training.learners import Learners
from dime.training.listeners import Listener, Record, TensorBoard, WeightsAndBiases
from dime.training.loop import Loop, RunResult
from dime.training.progress import make_progress
from dime.training.recorder import Recorder
from dime.training.records import write_json
from dime.training.run_directory import RunDirectory

EnvLike = str | Callable[..., Any]
"""Id of an environment, or a function that returns a new `gymnasium.Env` at each call."""


@dataclass(frozen=True)
class Audience:
    """Who hears of a run beside its files."""

    callback: Callable[[Record], Any] | None = None
    """Hears every record; a true answer stops the run."""
    progress: bool = True
    """Whether to show how far the run is."""


def start_run(config: RunConfig, env: EnvLike, run_dir: Path, audience: Audience) -> RunResult:
    """A new run; what can be refused is refused before its folder is made."""
    environments = _make_environments(config, env)
    RunDirectory(run_dir).refuse_if_taken()
    _import_loggers(config)
    directory = RunDirectory.create(run_dir, config.to_json())
    with directory.locked():
        return _run(config, directory, env, environments, None, audience)


def resume_run(
    run_dir: Path, env: EnvLike | None, num_env_steps: int | None, audience: Audience
) -> RunResult:
    """Continues a run, or starts it again where no checkpoint was ever completed."""
    directory = RunDirectory.open(run_dir)
    config = RunConfig.from_json(directory.config())
    if config.env_is_object and env is None:
        raise DimeError(
            f"The environment of {run_dir} was passed as a Python object ({config.env}), which a "
            "file cannot hold. Resume it from Python with the same one: "
            f'dime.resume("{run_dir}", env={config.env})'
        )
    env = env if env is not None else config.env
    environments = _make_environments(config, env)
    _import_loggers(config)
    with directory.locked():
        checkpoint, warnings = directory.checkpoints.load_newest()
        env_step = checkpoint.env_step if checkpoint else 0
        config = _extended(config, num_env_steps, env_step, directory)
        if warnings and checkpoint:
            directory.checkpoints.set_aside(checkpoint.path)
            warnings.append(f"Continuing from the checkpoint at env step {env_step} instead.")
        for warning in warnings:
            print(f"warning: {warning}", flush=True)
        return _run(config, directory, env, environments, checkpoint, audience)


def _make_environments(config: RunConfig, env: EnvLike) -> list[Environment]:
    return [make(env, config.env_kwargs) for _ in config.training.seeds]


def _import_loggers(config: RunConfig) -> None:
    if config.training.wandb_project is not None:
        WeightsAndBiases.require_installed()


def _extended(
    config: RunConfig, num_env_steps: int | None, env_step: int, directory: RunDirectory
) -> RunConfig:
    """The config with a larger number of env steps, also in the run's file."""
    wanted = config.training.num_env_steps if num_env_steps is None else num_env_steps
    if wanted < env_step or (wanted == env_step and directory.status().get("state") == "finished"):
        raise DimeError(
            f"{directory.path} is at env step {env_step} of {config.training.num_env_steps}; to "
            "extend it, give a larger number: --num-env-steps N"
        )
    if wanted != config.training.num_env_steps:
        config = replace_nested(config, {"training": {"num_env_steps": wanted}})
        write_json(directory.config_file, config.to_json())
    return config


def _run(
    config: RunConfig,
    directory: RunDirectory,
    env: EnvLike,
    environments: list[Environment],
    checkpoint: Checkpoint | None,
    audience: Audience,
) -> RunResult:
    env_step = checkpoint.env_step if checkpoint else 0
    directory.add_provenance(env_step)
    recorder = Recorder(
        directory,
        config.training.num_env_steps,
        _listeners(config, directory, env_step, audience),
        audience.callback,
    )

    def make_learners(compiling: Callable[[], AbstractContextManager[None]]) -> Learners:
        make_agent = partial(ALGORITHMS[config.algorithm].make, config.settings)
        return Learners(config.training, make_agent, environments, compiling)

    make_environment = partial(make, env, config.env_kwargs)
    loop = Loop(config.training, directory, make_learners, make_environment, recorder)
    try:
        with loop.interruption:
            if checkpoint is not None:
                loop.restore(checkpoint)
            return loop.run(new=checkpoint is None)
    finally:
        recorder.close()
        for environment in environments:
            environment.close()


def _listeners(
    config: RunConfig, directory: RunDirectory, env_step: int, audience: Audience
) -> list[Listener]:
    training = config.training
    listeners: list[Listener] = []
    if audience.progress:
        listeners.append(make_progress(env_step, training.num_env_steps))
    if training.tensorboard:
        purge_step = env_step + 1 if env_step else None
        listeners.append(TensorBoard(directory.tensorboard_folder, training.seeds, purge_step))
    if training.wandb_project is not None:
        listeners.append(WeightsAndBiases(training.wandb_project, directory.path, config.to_json()))
    return listeners
