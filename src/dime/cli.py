"""The command line: `dime train`, `resume`, `evaluate`, `sweep`, `plot` and the other commands.

Words become config here and nowhere further right. `dime train` reads its command line in two
stages: environment, algorithm and preset first, then the options of that algorithm.
"""

import argparse
import dataclasses
import difflib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

import dime
from dime.commands import (
    COMMANDS,
    Benchmark,
    Doctor,
    Evaluate,
    Figure,
    Inspect,
    List,
    Plot,
    Report,
    Resume,
    Serve,
    Sweep,
    Train,
)
from dime.errors import DimeError, choose
from dime.training.signals import EXIT_CTRL_C

EXIT_FAILED = 1
EXIT_REFUSED = 2


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
    from dime.experiments.configs import make_config
    from dime.experiments.presets import with_known_support
    from dime.training.config import RunConfig, TrainingConfig

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
        case Sweep():
            return _sweep(command)
        case Plot() | Figure() | Inspect() | Report() | Serve():
            _show(command)
        case List():
            from dime.experiments.listing import listing

            print(listing(command.what))
        case Doctor():
            from dime.experiments.doctor import examine

            return examine()
        case Benchmark():
            from dime.benchmark import benchmark, benchmark_all

            if command.all_algorithms:
                benchmark_all(command.preset, command.json)
            else:
                benchmark(command.cases, command.json)
    return 0


def _show(command: Plot | Figure | Inspect | Report | Serve) -> None:
    """Makes pictures and pages of runs."""
    match command:
        case Plot():
            from dime.experiments.figures import plot

            written = [plot(list(command.run_dirs), command.output, command.reference, command.by)]
        case Figure():
            from dime.experiments.paper_figures import draw_figure

            runs = list(command.run_dirs)
            written = [draw_figure(command.name, runs, command.output, command.reference)]
        case Inspect():
            from dime.experiments.inspection import inspect_policy

            written = inspect_policy(
                command.run_dir,
                command.output,
                checkpoint=command.checkpoint,
                num_states=command.states,
                plane=command.plane,
                seed=command.seed,
                suffixes=(f".{command.format}", f".{command.film}"),
            )
        case Report():
            from dime.experiments.report import write_report

            runs = list(command.run_dirs)
            written = [write_report(runs, command.output, reference=command.reference)]
        case Serve():
            from dime.experiments.report import serve

            serve(command.runs_dir, command.port, open_browser=command.open_browser)
            written = []
    for file in written:
        print(f"wrote {file}")


def _train(command: Train[Any, Any]) -> int:
    from dime.experiments.configs import run_config
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
        command.mode,
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


def _sweep(command: Sweep) -> int:
    from dime.experiments import sweep_plan
    from dime.experiments.sweep import sweep

    if command.dry_run:
        sweep_plan.show(command.study, command.variant, command.figures)
        return 0
    if command.emit is not None:
        print(f"wrote {sweep_plan.write_slurm(command.study, command.storage, command.variant)}")
        return 0
    if command.trial is not None:
        from dime.training.signals import exit_code

        result = sweep_plan.run_one(command.study, command.storage, command.variant, command.trial)
        if result is None:
            print("This trial has finished before.")
        elif result.signal is not None:
            return exit_code(result.signal)
        return EXIT_FAILED if result is not None and result.state == "failed" else 0
    result = sweep(
        command.study, storage=command.storage, variant=command.variant, address=command.address
    )
    for name, reason in result.failed.items():
        print(f"error: {name} failed:\n{reason}", file=sys.stderr)
    print(
        f"{result.folder}: {len(result.finished)} trials finished, {len(result.failed)} failed, "
        f"{len(result.unfinished)} not finished"
    )
    if result.unfinished:
        print("Run the same command again to go on.")
    return 0 if not (result.failed or result.unfinished) else EXIT_FAILED


def entry() -> None:
    """The console script."""
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    raise SystemExit(status)
