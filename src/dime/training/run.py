"""Training runs as functions: starting one from a config, resuming one from its run directory."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
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
from dime.errors import DimeError, choose, require
from dime.training.checkpoint import Checkpoint, from_arrays
from dime.training.config import EnvLike, RunConfig, replace_nested
from dime.training.device import DeviceLearners, first_episodes
from dime.training.host.evaluation import time_limit_warning
from dime.training.host.learners import HostLearners, Learners, OverlapLearners
from dime.training.host.programs import initialise, seed_keys
from dime.training.listeners import Progress, Record, TensorBoard, WeightsAndBiases
from dime.training.loop import Loop, RunResult
from dime.training.machine import (
    dispatch_from_this_thread,
    keep_compiled_programs,
    refuse_if_too_large,
)
from dime.training.presets import make_config
from dime.training.process import EXIT_SAVED
from dime.training.recorder import Recorder
from dime.training.return_support import require_support
from dime.training.run_directory import RunDirectory
from dime.types import Agent, EnvSpec

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
        DimeError: the request cannot be fulfilled; no folder was made, except if a logger did not
            start.
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
    return _checked(start_run(config, env, place, callback, progress))


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
    for name in changes:
        choose("option of a resumed run", name, CHANGEABLE)
    return _checked(resume_run(Path(run_dir), env, changes, callback, progress))


def _checked(result: RunResult) -> RunResult:
    """The result of a run that finished; raises if a signal stopped it or it failed."""
    if result.signal == signal.SIGINT:
        raise KeyboardInterrupt
    if result.signal is not None:
        raise SystemExit(EXIT_SAVED)
    if result.state == "failed":
        raise RunFailedError(result)
    return result


CHANGEABLE = ("num_env_steps", "max_env_restarts", "env_process", "env_timeout_s")
"""Options of a run that may change when it is resumed."""


def start_run(
    config: RunConfig,
    env: EnvLike,
    run_dir: Path | None,
    callback: Callback | None = None,
    progress: bool = True,
    before_start: Callable[[RunConfig], None] | None = None,
) -> RunResult:
    """A new run; all but a logger is checked before `before_start`, and before its folder is made.

    Without `run_dir` it goes to a new folder below `runs`.
    """
    if run_dir:
        RunDirectory(run_dir).refuse_if_taken()
    _prepare(config)
    with _environments(config, env) as environments:
        require_support(config, environments[0])
        agent = _agent(config, environments[0], len(config.training.seeds))
        if before_start is not None:
            before_start(config)
        if run_dir:
            directory = RunDirectory.create(run_dir, config.to_json())
        else:
            directory = RunDirectory.create_default(config.env, config.algorithm, config.to_json())
        with directory.locked():
            learners = _learners(config, env, environments, agent, None)
            with _loop(config, directory, environments[0], learners, callback, progress) as loop:
                return loop.run(None)


def resume_run(
    run_dir: Path,
    env: EnvLike | None,
    changes: dict[str, Any],
    callback: Callback | None = None,
    progress: bool = True,
) -> RunResult:
    """Continues a run, or restarts it if no checkpoint was ever completed.

    `changes` holds new values of `CHANGEABLE` options; None leaves one as it was.
    """
    directory = RunDirectory.open(run_dir)
    directory.refuse_what_is_no_file()
    config = directory.run_config()
    if config.env_is_object and env is None:
        raise DimeError(
            f"The environment of {run_dir} was passed as a Python object ({config.env}), which a "
            "file cannot hold. Resume it from Python with the same one: "
            f'dime.resume("{run_dir}", env={config.env})'
        )
    env = config.env if env is None else env
    _prepare(config)
    with directory.locked(), ExitStack() as stack:
        checkpoint, warnings = directory.checkpoints.load_newest()
        changed = _changed(config, changes, checkpoint, directory)
        environments = stack.enter_context(_environments(changed, env))
        seeds = checkpoint.run.seeds if checkpoint else config.training.seeds
        agent = _agent(changed, environments[0], len(seeds))
        if checkpoint is not None:
            _refuse_if_other(checkpoint, changed, environments[0], agent)
        # From here on nothing refuses, and the run may be changed.
        if changed != config:
            directory.write_config(changed.to_json())
        if warnings and checkpoint:
            directory.checkpoints.set_aside(checkpoint.path)
            at = checkpoint.env_step
            warnings.append(f"Continuing from the checkpoint at env step {at} instead.")
        learners = _learners(changed, env, environments, agent, checkpoint)
        with _loop(changed, directory, environments[0], learners, callback, progress) as loop:
            for warning in warnings:
                loop.recorder.message(f"warning: {warning}")
            return loop.run(checkpoint)


def _prepare(config: RunConfig) -> None:
    if not config.training.overlap:
        dispatch_from_this_thread()
    try:
        jax.devices()
    except Exception as error:  # JAX's own are of several kinds
        raise DimeError(
            f"JAX finds no device to compute on ({error}); `dime doctor` shows what there is."
        ) from error
    keep_compiled_programs()
    if config.training.wandb_project is not None:
        WeightsAndBiases.require_ready()


def _changed(
    config: RunConfig,
    changes: dict[str, Any],
    checkpoint: Checkpoint | None,
    directory: RunDirectory,
) -> RunConfig:
    """The config with the changes; refuses a run that is complete, or has lost its checkpoints."""
    status = directory.status()
    env_step, saved = checkpoint.env_step if checkpoint else 0, status.get("checkpoint_env_step")
    require(
        checkpoint is not None or saved is None,
        f"{directory.path} was saved at env step {saved}, but its checkpoints are gone. Put "
        f"them back, or train again: dime train --config {directory.path / 'config.json'}",
    )
    asked = {name: value for name, value in changes.items() if value is not None}
    planned = config.training.num_env_steps
    wanted = asked.get("num_env_steps", planned)
    complete = wanted == env_step and status.get("state") == "finished"
    require(
        wanted >= planned and not complete,
        f"{directory.path} is at env step {env_step} of {planned}; to extend it, give a larger "
        f"number than {planned}: --num-env-steps N; to continue, omit it.",
    )
    return replace_nested(config, {"training": asked})


def _refuse_if_other(
    checkpoint: Checkpoint, config: RunConfig, environment: Environment, agent: Agent
) -> None:
    path, run, training = checkpoint.path, checkpoint.run, config.training
    require(
        run.seeds == [seed for seed in training.seeds if seed in run.seeds],
        f"{path} has the seeds {run.seeds}, which are not among those of config.json in that "
        f"order: {list(training.seeds)}.",
    )
    environment.spaces.refuse_if_other(run.spaces, str(path))
    first = checkpoint.segments[0].start if checkpoint.segments else 0
    needed = max(0, run.env_step - training.replay_capacity)
    require(
        first <= needed,
        f"{path} holds transitions from number {first} on, but a replay_capacity of "
        f"{training.replay_capacity} needs them from {needed} on. Set replay_capacity back in "
        "config.json.",
    )
    on_device = isinstance(environment.env, JaxEnv)
    require(
        run.on_device == on_device,
        f"{path} is of a run whose environments were {'not ' * on_device}stepped in one program "
        "with the learner. Resume it with the environment and the env_process that it had.",
    )
    keys, num_envs = seed_keys(tuple(run.seeds)), training.envs_per_seed
    from_arrays(checkpoint.state, jax.eval_shape(partial(initialise, agent), keys))
    if isinstance(environment.env, JaxEnv):
        begin = partial(first_episodes, environment.env.task, num_envs)
        actions = jnp.zeros((len(keys), num_envs, environment.action_dim))
        from_arrays(checkpoint.episodes, (jax.eval_shape(begin, keys), actions), "environment")


def _agent(config: RunConfig, env: Environment, num_seeds: int) -> Agent:
    """The agent of a run.

    Raises `DimeError` if `overlap` or `envs_per_seed` do not go with the environment, if the
    algorithm's agent is malformed, or if so many seeds need more memory than there is.
    """
    training, on_device = config.training, isinstance(env.env, JaxEnv)
    require(
        not (training.overlap and on_device),
        f"--overlap does not go with {config.env}: it is stepped in one program with the learner, "
        "so nothing waits for it. Leave the option out.",
    )
    require(
        training.envs_per_seed == 1 or on_device,
        f"envs_per_seed is {training.envs_per_seed}, but {config.env} is not stepped in one "
        "program with the learner: each seed has one such environment (docs/environments.md).",
    )
    spec = EnvSpec(env.obs_dim, env.action_dim, training.replay_capacity)
    algorithm = find_algorithm(config.algorithm)
    agent = algorithm.make(config.settings, spec)
    modes = {"explore", *algorithm.modes}
    if not isinstance(agent, Agent) or set(agent.act) != modes:
        found = sorted(agent.act) if isinstance(agent, Agent) else type(agent).__name__
        raise DimeError(
            f"The algorithm '{config.algorithm}' must make an Agent whose `act` has "
            f"{sorted(modes)} (explore, and the modes that it lists); it made {found}."
        )
    refuse_if_too_large(agent, training, spec, num_seeds)
    return agent


@contextmanager
def _environments(config: RunConfig, env: EnvLike) -> Iterator[list[Environment]]:
    """A training environment for each seed, closed at the end."""
    make_environment = environment_maker(config, env)
    with ExitStack() as stack:
        try:
            made = [stack.enter_context(closing(make_environment())) for _ in config.training.seeds]
        except EnvironmentProcessError as error:
            raise DimeError(f"{config.env} cannot be made: {error}") from error
        yield made


def environment_maker(config: RunConfig, env: EnvLike) -> Callable[[], Environment]:
    """Makes environments of a run, in separate processes if its config says so."""
    training = config.training
    timeout_s = training.env_timeout_s if training.env_process else None
    return partial(make, env, config.env_kwargs, process_timeout_s=timeout_s)


def _learners(
    config: RunConfig,
    env: EnvLike,
    environments: list[Environment],
    agent: Agent,
    checkpoint: Checkpoint | None,
) -> Learners:
    training = config.training
    if isinstance(environments[0].env, JaxEnv):
        return DeviceLearners(training, agent, environments[0], checkpoint)
    by_seed = dict(zip(training.seeds, environments, strict=True))
    chosen = OverlapLearners if training.overlap else HostLearners
    return chosen(training, agent, by_seed, environment_maker(config, env), checkpoint)


@contextmanager
def _loop(
    config: RunConfig,
    directory: RunDirectory,
    environment: Environment,
    learners: Learners,
    callback: Callback | None,
    progress: bool,
) -> Iterator[Loop]:
    """The loop, which starts at the learners' env step; inside, signals ask it to stop."""
    training = config.training
    directory.add_provenance(learners.env_step)
    listeners: list[Any] = []
    if training.wandb_project is not None:  # first: it may fail, and the others hold open files
        listeners.append(WeightsAndBiases(training.wandb_project, directory.path, config.to_json()))
    if training.tensorboard:
        listeners.append(TensorBoard(directory.tensorboard_folder, training.seeds))
    if progress:  # last: it takes the terminal
        listeners.append(Progress(training.num_env_steps))
    recorder = Recorder(directory, listeners, callback)
    with closing(recorder):
        if warning := time_limit_warning(environment):
            recorder.message(warning)
        loop = Loop(training, directory, learners, recorder)
        with loop.interruption, closing(learners):
            yield loop
