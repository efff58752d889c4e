"""Starting a run from a config, and resuming one from its run directory."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from dime.algorithms.registry import find_algorithm
from dime.envs.environment import Environment
from dime.envs.jax_env import JaxEnv
from dime.envs.process import EnvironmentProcessError
from dime.envs.registry import make
from dime.envs.spaces import Spaces
from dime.errors import DimeError, require
from dime.training.checkpoint import Checkpoint, from_arrays
from dime.training.config import EnvLike, RunConfig, replace_nested, without_removed_options
from dime.training.device import DeviceLearners, first_episodes
from dime.training.host.evaluation import time_limit_warning
from dime.training.host.learners import HostLearners, OverlapLearners
from dime.training.host.programs import initialise, seed_keys
from dime.training.listeners import Listener, Record, TensorBoard, WeightsAndBiases, make_progress
from dime.training.loop import Loop, RunResult
from dime.training.machine import (
    dispatch_from_this_thread,
    keep_compiled_programs,
    refuse_if_too_large,
)
from dime.training.recorder import Recorder
from dime.training.return_support import require_support
from dime.training.run_directory import RunDirectory
from dime.types import Agent, EnvSpec


@dataclass(frozen=True)
class Hooks:
    """What a run calls and shows besides writing its files."""

    callback: Callable[[Record], Any] | None = None
    """Receives every record; a true result stops the run."""
    progress: bool = True
    """Whether to show how far the run is."""
    before_start: Callable[[RunConfig], None] | None = None
    """Called once a new run can begin, before its folder is made; may raise `DimeError`."""

    def __post_init__(self) -> None:
        require(
            self.callback is None or callable(self.callback),
            f"callback is {self.callback!r}; it must be a function of one record.",
        )


@dataclass(frozen=True)
class Changes:
    """What changes from here on in a resumed run; None leaves it as it was."""

    num_env_steps: int | None = None
    max_env_restarts: int | None = None
    env_process: bool | None = None
    env_timeout_s: float | None = None


def start_run(config: RunConfig, env: EnvLike, run_dir: Path | None, hooks: Hooks) -> RunResult:
    """A new run; what can be refused is refused before its folder is made.

    Without `run_dir` it goes to the first of the `default_run_dirs` that is free.
    """
    _prepare_device(config.training.overlap)
    with _environments(config, env) as environments:
        require_support(config, environments[0])
        if run_dir:
            RunDirectory(run_dir).refuse_if_taken()
        _require_loggers(config)
        _refuse_what_does_not_go_together(config, environments[0])
        agent = _agent(config, environments[0], len(config.training.seeds))
        if hooks.before_start is not None:
            hooks.before_start(config)
        existed = run_dir is not None and run_dir.exists()
        if run_dir:
            directory = RunDirectory.create(run_dir, config.to_json())
        else:
            directory = RunDirectory.create_default(config.env, config.algorithm, config.to_json())
        with directory.locked(), ExitStack() as stack:
            with directory.removed_on_failure(keep_empty=existed):
                learners = _learners(config, env, environments, agent, None)
                parts = (config, directory, environments[0], learners, hooks)
                loop = stack.enter_context(_loop(*parts))
            return loop.run(None)


def resume_run(run_dir: Path, env: EnvLike | None, changes: Changes, hooks: Hooks) -> RunResult:
    """Continues a run, or restarts it if no checkpoint was ever completed."""
    directory = RunDirectory.open(run_dir)
    directory.refuse_what_is_no_file()
    content = directory.config()
    config = RunConfig.from_json(content)
    if config.env_is_object and env is None:
        raise DimeError(
            f"The environment of {run_dir} was passed as a Python object ({config.env}), which a "
            "file cannot hold. Resume it from Python with the same one: "
            f'dime.resume("{run_dir}", env={config.env})'
        )
    env = env if env is not None else config.env
    changed = _changed(config, changes)
    _prepare_device(config.training.overlap)
    _require_loggers(config)
    with _environments(changed, env) as environments, directory.locked():
        checkpoint, warnings = directory.checkpoints.load_newest()
        env_step = checkpoint.env_step if checkpoint else 0
        extended = _extended(changed, changes.num_env_steps, env_step, directory)
        seeds = checkpoint.run.seeds if checkpoint else config.training.seeds
        if checkpoint is None:
            _refuse_if_checkpoints_are_gone(directory)
        else:
            _refuse_if_other(checkpoint, config, environments[0])
        _refuse_what_does_not_go_together(extended, environments[0])
        agent = _agent(extended, environments[0], len(seeds))
        if checkpoint is not None:
            _refuse_other_arrays(checkpoint, extended, environments[0], agent)
        # From here on nothing refuses, and the run may be changed.
        if extended != config:
            directory.write_config(extended.to_json())
        if warnings and checkpoint:
            directory.checkpoints.set_aside(checkpoint.path)
            warnings.append(f"Continuing from the checkpoint at env step {env_step} instead.")
        if used := without_removed_options(content)[1]:
            warnings.append(
                f"This run used {' and '.join(used)}, which this release no longer has. It "
                "continues with the same numbers and a replay that takes more memory."
            )
        for warning in warnings:
            print(f"warning: {warning}", flush=True)
        learners = _learners(extended, env, environments, agent, checkpoint)
        with _loop(extended, directory, environments[0], learners, hooks) as loop:
            return loop.run(checkpoint)


def _prepare_device(overlap: bool) -> None:
    if not overlap:
        dispatch_from_this_thread()
    try:
        jax.devices()
    except Exception as error:  # JAX's own are of several kinds
        raise DimeError(
            f"JAX finds no device to compute on ({type(error).__name__}: {error}). JAX_PLATFORMS "
            f"is {os.environ.get('JAX_PLATFORMS', '')!r}; `dime doctor` shows what there is."
        ) from error
    keep_compiled_programs()


def _refuse_if_checkpoints_are_gone(directory: RunDirectory) -> None:
    saved = directory.status().get("checkpoint_env_step")
    if saved is not None:
        raise DimeError(
            f"{directory.path} was saved at env step {saved}, but its checkpoints are gone. Put "
            f"them back, or train again: dime train --config {directory.path / 'config.json'}"
        )


def _refuse_if_other(checkpoint: Checkpoint, config: RunConfig, environment: Environment) -> None:
    """Raises `DimeError` if a checkpoint is not of this environment, algorithm or config."""
    spaces, seeds, training = environment.spaces, checkpoint.run.seeds, config.training
    capacity = training.replay_capacity
    require(
        seeds == [seed for seed in training.seeds if seed in seeds],
        f"{checkpoint.path} has the seeds {seeds}, which are not among those of config.json in "
        f"that order: {list(training.seeds)}.",
    )
    spaces.refuse_if_other(Spaces.from_json(checkpoint.run.spaces), str(checkpoint.path))
    first = min((start for _, start in checkpoint.replay_files), default=0)
    needed = max(0, checkpoint.env_step - capacity)
    require(
        first <= needed,
        f"{checkpoint.path} holds transitions from number {first} on, but a replay_capacity of "
        f"{capacity} needs them from {needed} on. Set replay_capacity back in config.json.",
    )
    was, now = checkpoint.run.on_device, on_device(environment)
    places = {True: "in one program with the learner", False: "outside of the learner's program"}
    require(
        was == now,
        f"{checkpoint.path} is of a run whose environments were stepped {places[was]}; now they "
        f"would be {places[now]}. Resume it with the environment and the env_process that it had.",
    )


def _refuse_other_arrays(
    checkpoint: Checkpoint, config: RunConfig, environment: Environment, agent: Agent
) -> None:
    """Raises `DimeError` if a checkpoint's arrays are not those of this agent or environment."""
    keys, num_envs = seed_keys(tuple(checkpoint.run.seeds)), config.training.envs_per_seed
    from_arrays(checkpoint.state, jax.eval_shape(partial(initialise, agent), keys))
    if isinstance(environment.env, JaxEnv):
        begin = partial(first_episodes, environment.env.task, num_envs)
        actions = jnp.zeros((len(keys), num_envs, environment.action_dim))
        from_arrays(checkpoint.episodes, (jax.eval_shape(begin, keys), actions), "environment")


def _agent(config: RunConfig, env: Environment, num_seeds: int) -> Agent:
    """The agent; refuses a wrong one, or one that is too large for so many seeds."""
    spec = EnvSpec(env.obs_dim, env.action_dim, config.training.replay_capacity)
    agent = find_algorithm(config.algorithm).make(config.settings, spec)
    modes = {"explore", *find_algorithm(config.algorithm).modes}
    if not isinstance(agent, Agent) or set(agent.act) != modes:
        found = sorted(agent.act) if isinstance(agent, Agent) else type(agent).__name__
        raise DimeError(
            f"The algorithm '{config.algorithm}' must make an Agent whose `act` has "
            f"{sorted(modes)} (explore, and the modes that it lists); it made {found}."
        )
    refuse_if_too_large(agent, config.training, spec, num_seeds)
    return agent


def on_device(environment: Environment) -> bool:
    """Whether a run steps this environment in one program with the learner."""
    return isinstance(environment.env, JaxEnv)


def _refuse_what_does_not_go_together(config: RunConfig, environment: Environment) -> None:
    """Options that only environments in the learner's program have, or only others."""
    overlap, together = config.training.overlap, config.training.envs_per_seed
    require(
        not (overlap and on_device(environment)),
        f"--overlap does not go with {config.env}: it is stepped in one program with the learner, "
        "so that nothing waits for it. Leave the option out.",
    )
    require(
        together == 1 or on_device(environment),
        f"envs_per_seed is {together}, but {config.env} is not stepped in one program with the "
        "learner: of such an environment each seed has one (docs/environments.md).",
    )


@contextmanager
def _environments(config: RunConfig, env: EnvLike) -> Iterator[list[Environment]]:
    """A training environment for each seed, closed at the end."""
    with ExitStack() as stack:
        make_environment = environment_maker(config, env)
        try:
            made = [stack.enter_context(closing(make_environment())) for _ in config.training.seeds]
        except EnvironmentProcessError as error:
            raise DimeError(f"{config.env} cannot be made: {error}") from error
        except OSError as error:  # with its traceback: it is not a file of the run
            raise RuntimeError(f"{config.env} cannot be made") from error
        yield made


def environment_maker(config: RunConfig, env: EnvLike) -> Callable[[], Environment]:
    """Makes environments of a run, in separate processes if its config says so."""
    training = config.training
    timeout_s = training.env_timeout_s if training.env_process else None
    return partial(make, env, config.env_kwargs, process_timeout_s=timeout_s)


def _require_loggers(config: RunConfig) -> None:
    if config.training.wandb_project is not None:
        WeightsAndBiases.require_ready()


def _changed(config: RunConfig, changes: Changes) -> RunConfig:
    """The config with every change except its length."""
    asked = {name: value for name, value in asdict(changes).items() if value is not None}
    asked.pop("num_env_steps", None)
    return replace_nested(config, {"training": asked})


def _extended(
    config: RunConfig, num_env_steps: int | None, env_step: int, directory: RunDirectory
) -> RunConfig:
    """The config with a larger number of env steps."""
    planned = config.training.num_env_steps
    wanted = planned if num_env_steps is None else num_env_steps
    complete = wanted == env_step and directory.status().get("state") == "finished"
    if wanted < planned or complete:
        raise DimeError(
            f"{directory.path} is at env step {env_step} of {planned}; to extend it, give a larger "
            f"number than {planned}: --num-env-steps N"
        )
    return replace_nested(config, {"training": {"num_env_steps": wanted}})


def _learners(
    config: RunConfig,
    env: EnvLike,
    environments: list[Environment],
    agent: Agent,
    checkpoint: Checkpoint | None,
) -> HostLearners | DeviceLearners:
    training = config.training
    if on_device(environments[0]):
        return DeviceLearners(training, agent, environments[0], checkpoint)
    by_seed = dict(zip(training.seeds, environments, strict=True))
    make_environment = environment_maker(config, env)
    chosen = OverlapLearners if training.overlap else HostLearners
    return chosen(training, agent, by_seed, make_environment, checkpoint)


@contextmanager
def _loop(
    config: RunConfig,
    directory: RunDirectory,
    environment: Environment,
    learners: HostLearners | DeviceLearners,
    hooks: Hooks,
) -> Iterator[Loop]:
    """The loop from the learners' env step on; inside, signals ask it to stop."""
    env_step = learners.env_step
    directory.add_provenance(env_step)
    listeners = _listeners(config, directory, env_step, hooks)
    recorder = Recorder(directory, config.training.num_env_steps, listeners, hooks.callback)
    with closing(recorder):
        if warning := time_limit_warning(environment):
            recorder.message(warning)
        loop = Loop(config.training, directory, learners, recorder)
        with loop.interruption, closing(learners):
            yield loop


def _listeners(
    config: RunConfig, directory: RunDirectory, env_step: int, hooks: Hooks
) -> list[Listener]:
    training = config.training
    listeners: list[Listener] = []
    if training.wandb_project is not None:  # first: it may fail, and the others hold open files
        listeners.append(WeightsAndBiases(training.wandb_project, directory.path, config.to_json()))
    if training.tensorboard:
        purge_step = env_step + 1 if env_step else None
        listeners.append(TensorBoard(directory.tensorboard_folder, training.seeds, purge_step))
    if hooks.progress:  # last: it takes the terminal
        num_seeds = len(training.seeds)
        listeners.append(make_progress(env_step, training.num_env_steps, num_seeds))
    return listeners
