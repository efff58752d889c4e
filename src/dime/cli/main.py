"""The command line: `dime train`, `resume`, `evaluate`, `sweep`, `plot` and the other commands.

Words become config here and nowhere further right. `dime train` reads its command line in two
stages: environment, algorithm and preset first, then the options of that algorithm.
"""

import argparse
import dataclasses
import difflib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

import dime
from dime.cli.actions import EXIT_FAILED, EXIT_REFUSED, perform
from dime.cli.commands import COMMANDS, Train
from dime.errors import DimeError, choose
from dime.training.process import EXIT_CTRL_C, collector_paused


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status.

    0 done; 1 a run failed; 2 refused, with the reason; 75 stopped by SIGTERM, SIGUSR1 or SIGHUP and
    saved: run `dime resume`; 130 stopped by Ctrl-C and saved.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with collector_paused():
            command = parse(arguments)
        return perform(command)
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
    first.add_argument("--algorithm")
    first.add_argument("--preset")
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
    from dime.training.config import RunConfig, TrainingConfig
    from dime.training.make_config import make_config
    from dime.training.presets import with_known_support

    if known.config is not None:
        config = RunConfig.from_json(_read_config(known.config))
        for name in ("algorithm", "preset"):
            asked, kept = getattr(known, name), getattr(config, name)
            if asked not in (None, kept):
                raise DimeError(
                    f"--{name} is {asked}, but {known.config} is a config for {name} {kept}, whose "
                    f"settings would be kept. Leave --{name} or --config out."
                )
        if known.env and known.env != config.env:
            settings = with_known_support(config.settings, known.env, config.preset)
            config = dataclasses.replace(config, env=known.env, settings=settings)
    else:
        config = make_config(known.env, known.algorithm or "dime", known.preset or "paper")
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
    _refuse_unknown_options(arguments, default)
    command: Any = Train[TrainingConfig, type(config.settings)]
    return tyro.cli(command, prog="dime train", args=arguments, default=default)


def _refuse_unknown_options(arguments: list[str], command: Train[Any, Any]) -> None:
    """Raises `DimeError` with the nearest option for one that this algorithm's runs lack."""
    from dime.training.config import option_names

    of_command = [field.name for field in dataclasses.fields(command)]
    names = [*of_command, *option_names(command.training), *option_names(command.settings)]
    offered = [f"--{name}".replace("_", "-") for name in names]
    known = {*offered, *map(_switched_off, offered), "--help"}
    for word in arguments:
        option = word.partition("=")[0].replace("_", "-")
        if option.startswith("--") and option not in known:
            nearest = difflib.get_close_matches(option, offered, n=1, cutoff=0.0)[0]
            raise DimeError(
                f"Runs of the algorithm '{command.algorithm}' have no option {option}; nearest: "
                f"{nearest}. All of them: dime train ENV --algorithm {command.algorithm} --help"
            )


def _switched_off(option: str) -> str:
    """How a flag is switched off: --no-flag; in a part of the settings --part.no-flag."""
    part, dot, name = option.removeprefix("--").rpartition(".")
    return f"--{part}{dot}no-{name}"


def _read_config(file: Path) -> Any:
    from dime.training.records import read_json

    try:
        return read_json(file)
    except (OSError, ValueError) as error:
        raise DimeError(f"{file} cannot be read as a config ({error}).") from error


def entry() -> None:
    """The console script."""
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    raise SystemExit(status)
