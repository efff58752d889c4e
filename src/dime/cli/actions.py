"""What the commands of `dime` do, once the command line is read; each returns its exit status.

What a command needs is imported when it is asked for, so that the others start quickly.
"""

import json
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from dime.cli.commands import (
    Benchmark,
    Doctor,
    Evaluate,
    Export,
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
from dime.errors import DimeError

EXIT_FAILED = 1
EXIT_REFUSED = 2
_LONG_H = 1.0  # a run that takes longer is announced


def perform(command: Any) -> int:
    """Does what a command asks; returns the exit status."""
    match command:
        case Train():
            return _train(command)
        case Resume():
            from dime.training.run import Changes, Hooks, resume_run

            changes = Changes(
                command.num_env_steps,
                command.max_env_restarts,
                command.env_process,
                command.env_timeout_s,
            )
            with _muted_if_nobody_reads():
                result = resume_run(command.run_dir, None, changes, Hooks())
            return _after_training(result, command.video)
        case Evaluate() | Export():
            _deploy(command)
        case Sweep():
            return _sweep(command)
        case Plot() | Figure() | Inspect() | Report() | Serve():
            _show(command)
        case List():
            from dime.cli.listing import listing

            print(listing(command.what))
        case Doctor():
            from dime.cli.doctor import examine

            return examine()
        case Benchmark():
            from dime.benchmark.benchmark import benchmark, benchmark_all

            if command.all_algorithms:
                benchmark_all(command.preset, command.json)
            else:
                benchmark(command.cases, command.json)
    return 0


def _show(command: Plot | Figure | Inspect | Report | Serve) -> None:
    """Makes pictures and pages of runs."""
    match command:
        case Plot():
            from dime.figures.figures import plot

            written = [plot(list(command.run_dirs), command.output, command.reference, command.by)]
        case Figure():
            from dime.figures.paper import draw_figure

            runs = list(command.run_dirs)
            written = [draw_figure(command.name, runs, command.output, command.reference)]
        case Inspect():
            from dime.figures.inspection import inspect_policy

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
            from dime.report import write_report

            runs = list(command.run_dirs)
            written = [write_report(runs, command.output, reference=command.reference)]
        case Serve():
            from dime.report import serve

            serve(command.runs_dir, command.port, open_browser=command.open_browser)
            written = []
    for file in written:
        print(f"wrote {file}")


def _train(command: Train[Any, Any]) -> int:
    from dime.training.config import RunConfig
    from dime.training.presets import preset_settings
    from dime.training.run import Hooks
    from dime.training.starting import run_config

    config = RunConfig(
        env=command.env,
        env_kwargs=_parse_env_kwargs(command.env_kwargs),
        algorithm=command.algorithm,
        preset=command.preset,
        training=command.training,
        settings=command.settings,
    )
    known = preset_settings(config.preset, config.algorithm, config.env) == config.settings
    ask = not command.yes and known and _somebody_answers()  # of other sizes little is known
    hooks = Hooks(before_start=partial(_announce_duration, ask=ask))
    with _muted_if_nobody_reads():
        result = run_config(config, config.env, command.run_dir, hooks)
    return _after_training(result, command.video)


def _announce_duration(config: Any, ask: bool) -> None:
    """Says how long a run of hours will take on this CPU; raises `DimeError` if not wanted.

    The shipped figures give it, and the rates of a matrix product there and here.
    """
    import jax

    from dime.benchmark.hours import hours, read_costs

    costs, note = read_costs(None, config.preset)
    expected = hours(config, costs) or 0.0  # unknown for algorithms of others
    # Short also on a CPU half as fast: this one is not measured.
    if expected < _LONG_H / 2 or jax.default_backend() != "cpu":
        return
    from dime.benchmark.timing import make_matmul

    matmul = make_matmul()
    here = max(matmul() for _ in range(3))
    expected *= costs[config.algorithm].matmul_gflops / here
    if expected < _LONG_H:
        return
    advice = " --preset laptop learns with small networks in minutes."
    print(
        f"Without an accelerator this run takes at least about {expected:.0f} hours for its "
        f"updates and actions ({config.training.num_env_steps:,} env steps; {note}, scaled by the "
        f"rate of a matrix product, {here:.0f} GFLOP/s here)."
        + ("" if config.preset == "laptop" else advice),
        flush=True,
    )
    if ask and not _agrees("Start? [y/N] "):
        raise DimeError("Not started. Use --yes to start without being asked.")


@contextmanager
def _muted_if_nobody_reads() -> Iterator[None]:
    """After what is inside, lets prints go nowhere if the terminal or pipe has lost its reader."""
    try:
        yield
    finally:
        for descriptor in (1, 2):
            output = select.poll()
            output.register(descriptor, 0)  # POLLHUP and POLLERR are told in any case
            if output.poll(0):
                with open(os.devnull, "wb") as sink:
                    os.dup2(sink.fileno(), descriptor)


def _somebody_answers() -> bool:
    """Whether this process has a terminal, and may read from it: one in the background stops."""
    try:
        terminal = sys.stdin.isatty() and sys.stdout.isatty()
        return terminal and os.getpgrp() == os.tcgetpgrp(sys.stdin.fileno())
    except (AttributeError, OSError, ValueError):  # no such stream, or a closed one
        return False


def _agrees(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


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
    from dime.cli.closing import leave_pictures, result_table
    from dime.training.process import exit_code

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


def _deploy(command: Evaluate | Export) -> None:
    """Uses the policies of a run."""
    match command:
        case Evaluate():
            from dime.cli.closing import evaluation_table
            from dime.deploy.evaluate import disagreement, evaluate

            records = evaluate(
                command.run_dir,
                command.mode,
                episodes=command.episodes,
                checkpoint=command.checkpoint,
                video=command.video,
            )
            print(evaluation_table(records))
            if note := disagreement(command.run_dir, records):
                print(note)
            if command.video is not None:
                print(f"wrote {command.video}")
        case Export():
            from dime.deploy.export import export_policy

            export_policy(
                command.run_dir,
                command.output,
                command.format,
                mode=command.mode,
                batch=command.batch,
                seed=command.seed,
                checkpoint=command.checkpoint,
                opset=command.opset,
            )
            print(f"wrote {command.output}")


def _sweep(command: Sweep) -> int:
    from dime.sweeps import plan as sweep_plan
    from dime.sweeps.sweep import sweep

    if command.dry_run:
        sweep_plan.show(command.study, command.variant, command.figures)
        return 0
    if command.emit is not None:
        print(f"wrote {sweep_plan.write_slurm(command.study, command.storage, command.variant)}")
        return 0
    if command.trial is not None:
        from dime.training.process import exit_code

        with _muted_if_nobody_reads():
            result = sweep_plan.run_one(
                command.study, command.storage, command.variant, command.trial
            )
        if result is None:
            print("This trial has finished before.")
        elif result.signal is not None:
            return exit_code(result.signal)
        return EXIT_FAILED if result is not None and result.state == "failed" else 0
    try:
        result = sweep(
            command.study, storage=command.storage, variant=command.variant, address=command.address
        )
    except KeyboardInterrupt:
        print("The same command goes on from the last checkpoints.", file=sys.stderr)
        raise
    for name, reason in result.failed.items():
        print(f"error: {name} failed:\n{reason}", file=sys.stderr)
    counts = {"finished": result.finished, "failed": result.failed}
    if result.stopped_early:
        counts["stopped early"] = result.stopped_early
    told = ", ".join(f"{len(names)} {state}" for state, names in counts.items())
    print(f"{result.folder}: {told}")
    return EXIT_FAILED if result.failed else 0
