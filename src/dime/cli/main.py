"""The command line: `dime train`, `resume`, `evaluate`, `sweep`, `plot` and the other commands."""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import docstring_parser
import tyro

import dime
from dime.cli.commands import COMMANDS, EXIT_FAILED, Train
from dime.errors import DimeError, choose, require
from dime.training.process import EXIT_CTRL_C, collector_paused

_parse_docstrings = docstring_parser.parse_from_object


def _parse_unwrapped(described: object) -> docstring_parser.Docstring:
    """As tyro reads the options' help; by itself it would keep the line breaks of the source."""
    docstring = _parse_docstrings(described)
    for option in docstring.params:
        option.description = option.description and " ".join(option.description.split())
    return docstring


docstring_parser.parse_from_object = _parse_unwrapped


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status.

    0 done; 1 a run failed; 2 refused, with the reason; 75 stopped by SIGTERM, SIGUSR1 or SIGHUP and
    saved: run `dime resume`; 130 stopped by Ctrl-C and saved.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with collector_paused():
            command = parse(arguments)
        return command.run() or 0
    except DimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return EXIT_CTRL_C
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED


def parse(arguments: list[str]) -> Any:
    """The command that these words describe."""
    name, *words = arguments or ["--help"]
    if name == "--version":
        print(f"dime {dime.__version__}")
        raise SystemExit(0)
    if name in ("--help", "-h"):
        print("Diffusion-based maximum-entropy reinforcement learning.\n")
        for each, described in COMMANDS.items():
            print(f"  dime {each:9}  {described.__doc__}")
        print("\ndime COMMAND --help shows its options, dime --version the version.")
        raise SystemExit(0)
    command = COMMANDS[choose("command", name, COMMANDS)]
    if command is Train:
        return _parse_train(words)
    return tyro.cli(command, prog=f"dime {name}", args=words)


def _parse_train(words: list[str]) -> Any:
    from dime.training.config import TrainingConfig

    # The options depend on environment, algorithm, preset and config file: we read these first.
    env = words[0] if words and not words[0].startswith("-") else ""
    parser = argparse.ArgumentParser("dime train", add_help=False, allow_abbrev=False)
    for option in ("--algorithm", "--preset", "--config"):
        parser.add_argument(option, nargs="?")
    given, _ = parser.parse_known_args(words)
    config = _starting_config(env, given.algorithm, given.preset, given.config)
    default = Train(
        env=config.env,
        training=config.training,
        settings=config.settings,
        algorithm=config.algorithm,
        preset=config.preset,
        env_kwargs=tuple(f"{name}={json.dumps(v)}" for name, v in config.env_kwargs.items()),
    )
    command_type: Any = Train[TrainingConfig, type(config.settings)]
    prog = f"dime train ENV --algorithm {config.algorithm}" if given.algorithm else "dime train"
    command = tyro.cli(command_type, prog=prog, args=words, default=default)
    require(
        command.env == default.env,
        f"ENV comes before all options: dime train {command.env} [OPTIONS]",
    )
    require(command.env != "", "ENV is required: dime train ENV (dime list environments).")
    return command


def _starting_config(env: str, algorithm: str | None, preset: str | None, file: str | None) -> Any:
    """The config that the options of `dime train` change."""
    from dime.training.config import RunConfig
    from dime.training.presets import make_config, with_known_support
    from dime.training.records import read_json

    if file is None:
        return make_config(env, algorithm or "dime", preset or "paper")
    try:
        config = RunConfig.from_json(read_json(Path(file)))
    except (OSError, ValueError) as error:
        raise DimeError(f"{file} cannot be read as a config ({error}).") from error
    for name, asked in (("algorithm", algorithm), ("preset", preset)):
        kept = getattr(config, name)
        require(
            asked in (None, kept),
            f"--{name} is {asked}, but {file} is a config for {name} {kept} and its settings. "
            f"Omit --{name} or --config.",
        )
    if env in ("", config.env):
        return config
    settings = with_known_support(config.settings, env, config.preset)
    return dataclasses.replace(config, env=env, settings=settings)


def entry() -> None:
    """The console script."""
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    raise SystemExit(status)
