"""The command line: `dime train`, `resume`, `evaluate`, `plot`, `list`, `doctor`, `benchmark`.

Words become config here and nowhere further right. `dime train` reads its command line in two
stages: environment, algorithm and preset first, then the options of that algorithm.
"""

import argparse
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

import dime
from dime.errors import DimeError
from dime.training.signals import EXIT_CTRL_C

EXIT_FAILED = 1
EXIT_REFUSED = 2

Settings = TypeVar("Settings")
Training = TypeVar("Training")


@dataclass(frozen=True)
class Train(Generic[Training, Settings]):
    """Train agents; leave a run directory with records, checkpoints, a curve and a film."""

    env: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENV")]
    """Id of the environment, as `dm_control/cartpole-swingup`, `Humanoid-v4`,
    `myoHandReachRandom-v0`, `module:Id` (`dime list environments`)."""
    training: Annotated[Training, tyro.conf.arg(name="")]
    settings: Annotated[Settings, tyro.conf.arg(name="")]
    algorithm: str = "dime"
    """One of `dime list algorithms`; the options below are those of the one chosen."""
    preset: str = "paper"
    """What the options start from: `paper` or `laptop` (`dime list presets`)."""
    config: Path | None = None
    """Start from this config.json of a run instead of a preset."""
    run_dir: Path | None = None
    """Where the run goes; by default runs/ENV/ALGORITHM/<date-time>."""
    env_kwargs: tuple[str, ...] = ()
    """Passed to the environment, as name=value: use_contact_forces=true."""
    video: bool = True
    """Film an episode of the trained policy at the end."""


@dataclass(frozen=True)
class Resume:
    """Continue a run from its newest intact checkpoint, as if it had never stopped."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """The run's folder."""
    num_env_steps: int | None = None
    """A larger number extends the run."""
    video: bool = True
    """Film an episode of the trained policy at the end."""


@dataclass(frozen=True)
class Evaluate:
    """Play whole episodes with the policies of a run."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """The run's folder."""
    mode: Literal["stochastic", "deterministic", "best_of_n", "best-of-n"] = "stochastic"
    """How actions are chosen; the paper's is stochastic."""
    episodes: int | None = None
    """Episodes per seed; by default as many as during training."""
    checkpoint: Path | None = None
    """Another checkpoint's folder than the newest intact one."""
    video: Path | None = None
    """Also film an episode of the first seed into this file (.mp4)."""


@dataclass(frozen=True)
class Plot:
    """Draw the learning curves of runs; of a multi-goal run also its paths."""

    run_dirs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN_DIR...")]
    """Folders of runs; those on one environment share a panel."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Picture to write: .png, .svg or .pdf."""
    reference: str | None = None
    """CSV of curves to draw beside them; `shipped` for the authors' published ones."""


@dataclass(frozen=True)
class List:
    """Show what there is."""

    what: tyro.conf.Positional[Literal["algorithms", "environments", "presets"]]
    """What to show."""


@dataclass(frozen=True)
class Doctor:
    """Check this machine: device, versions, suites, renderer, combinations known to fail."""


@dataclass(frozen=True)
class Benchmark:
    """Time updates, acting and the loop on this machine, as a share of its matrix products."""

    json: Path | None = None
    """Also write the figures to this file."""
    cases: tuple[str, ...] = ("paper/dog-run", "paper/humanoid-run", "small/cheetah-run")
    """Which sizes to time."""


COMMANDS = {
    "train": Train,
    "resume": Resume,
    "evaluate": Evaluate,
    "plot": Plot,
    "list": List,
    "doctor": Doctor,
    "benchmark": Benchmark,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status.

    0 done; 1 a run failed; 2 refused, with the reason; 75 stopped by SIGTERM or SIGUSR1 and saved:
    run `dime resume`; 130 stopped by Ctrl-C and saved.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return run(parse(arguments))
    except DimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return EXIT_CTRL_C
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED


def parse(arguments: list[str]) -> Any:
    """The command that the words ask for."""
    if arguments[:1] == ["--version"]:
        print(f"dime {dime.__version__}")
        raise SystemExit(0)
    name = arguments[0] if arguments else "--help"
    if name in ("--help", "-h"):
        print(_overview())
        raise SystemExit(0)
    from dime.training.config import choose

    command = COMMANDS[choose("command", name, COMMANDS)]
    if command is Train:
        return _parse_train(arguments[1:])
    return tyro.cli(command, prog=f"dime {name}", args=arguments[1:])


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  dime {name:{width}}  {command.__doc__}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "Diffusion-based maximum-entropy reinforcement learning.",
            "",
            *lines,
            "",
            "dime COMMAND --help shows the options of a command; dime --version the version.",
        ]
    )


def _parse_train(arguments: list[str]) -> Any:
    """Reads environment, algorithm, preset and config first: they decide the other options."""
    first = argparse.ArgumentParser("dime train", add_help=False, allow_abbrev=False)
    first.add_argument("env", nargs="?", default="")
    first.add_argument("--algorithm", default="dime")
    first.add_argument("--preset", default="paper")
    first.add_argument("--config", type=Path)
    words = [word for word in arguments if word not in ("--help", "-h")]
    known, _ = first.parse_known_args(words)
    if known.config is not None:
        known.env = ""  # may be left out, and then an option's value was taken for it
    command = _parse_options(arguments, known)
    if command.env != known.env:
        # Where options come before ENV, too, their values were taken for it.
        known.env = command.env
        command = _parse_options(arguments, known)
    return command


def _parse_options(arguments: list[str], known: argparse.Namespace) -> Any:
    """Reads the whole command line, whose options and defaults `known` decides."""
    from dime.api import make_config
    from dime.experiments.presets import with_known_support
    from dime.training.config import RunConfig, TrainingConfig

    if known.config is not None:
        config = RunConfig.from_json(_read_config(known.config))
        if known.env and known.env != config.env:
            settings = with_known_support(config.settings, known.env, config.preset)
            config = dataclasses.replace(config, env=known.env, settings=settings)
    else:
        config = make_config(known.env, known.algorithm, known.preset)
    default = Train(
        env=config.env,
        training=config.training,
        settings=config.settings,
        algorithm=config.algorithm,
        preset=config.preset,
        config=known.config,
        env_kwargs=tuple(f"{name}={json.dumps(v)}" for name, v in config.env_kwargs.items()),
    )
    if known.config is None:  # not through the constructor, because it is no text
        object.__setattr__(default, "env", tyro.MISSING)
    command: Any = Train[TrainingConfig, type(config.settings)]
    return tyro.cli(command, prog="dime train", args=arguments, default=default)


def _read_config(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise DimeError(f"{file} cannot be read as a config ({error}).") from error


def run(command: Any) -> int:
    """Does what a command asks; returns the exit status."""
    match command:
        case Train():
            return _train(command)
        case Resume():
            from dime.training.run import Audience, resume_run

            result = resume_run(command.run_dir, None, command.num_env_steps, Audience())
            return _after_training(result, command.video)
        case Evaluate():
            return _evaluate(command)
        case Plot():
            from dime.experiments.figures import plot

            print(f"wrote {plot(list(command.run_dirs), command.output, command.reference)}")
        case List():
            from dime.experiments.listing import listing

            print(listing(command.what))
        case Doctor():
            from dime.experiments.doctor import examine

            return examine()
        case Benchmark():
            from dime.benchmark import benchmark

            benchmark(command.cases, command.json)
    return 0


def _train(command: Train[Any, Any]) -> int:
    from dime.api import run_config
    from dime.training.config import RunConfig
    from dime.training.run import Audience

    config = RunConfig(
        env=command.env,
        env_kwargs=_parse_env_kwargs(command.env_kwargs),
        algorithm=command.algorithm,
        preset=command.preset,
        training=command.training,
        settings=command.settings,
    )
    result = run_config(config, config.env, command.run_dir, Audience())
    return _after_training(result, command.video)


def _parse_env_kwargs(words: tuple[str, ...]) -> dict[str, Any]:
    """Reads `name=value`; a value is JSON if it can be, else text."""
    kwargs: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (equals and name.isidentifier()):
            raise DimeError(f"--env-kwargs takes name=value, got '{word}'.")
        try:
            kwargs[name] = json.loads(value)
        except ValueError:
            kwargs[name] = value
    return kwargs


def _after_training(result: Any, video: bool) -> int:
    """Shows how a run ended, and makes its pictures; returns the exit status."""
    from dime.experiments.closing import leave_pictures, result_table
    from dime.training.signals import exit_code

    if result.signal is not None:
        print(f"Stopped by {signal.Signals(result.signal).name} at env step {result.env_step}.")
        print(f"Saved; continue with: dime resume {result.run_dir}")
        return exit_code(result.signal)
    if result.state == "failed":
        print(f"error: the run failed: {result.reason}", file=sys.stderr)
    print(result_table(result.run_dir))
    print(f"run directory: {result.run_dir}")
    leave_pictures(result.run_dir, video)
    return EXIT_FAILED if result.state == "failed" else 0


def _evaluate(command: Evaluate) -> int:
    from dime.deploy.evaluate import evaluate
    from dime.experiments.closing import evaluation_table

    records = evaluate(
        command.run_dir,
        command.mode.replace("-", "_"),
        episodes=command.episodes,
        checkpoint=command.checkpoint,
        video=command.video,
    )
    for warning in records[0].pop("warnings"):
        print(f"warning: {warning}", file=sys.stderr)
    print(evaluation_table(records))
    if command.video is not None:
        print(f"wrote {command.video}")
    return 0


def entry() -> None:
    """The console script."""
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    raise SystemExit(status)
