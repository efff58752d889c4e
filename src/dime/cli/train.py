"""What `dime train` and `dime resume` print before a run, and what they add after it."""

import os
import select
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import jax

from dime.algorithms.registry import find_algorithm
from dime.benchmark import timing
from dime.cli.commands import EXIT_FAILED, print_table
from dime.deploy.evaluate import record_video
from dime.deploy.policy import restore_agents
from dime.errors import DimeError, describe, require
from dime.figures.learning import plot
from dime.training.config import RunConfig
from dime.training.listeners import return_text
from dime.training.loop import RunResult
from dime.training.presets import preset_settings
from dime.training.process import exit_code
from dime.training.records import read_records

_LONG_H = 1.0  # a run that takes longer is announced


def announce_duration(config: RunConfig, yes: bool) -> None:
    """Says how long a run of hours will take on this CPU; raises `DimeError` if declined.

    The estimate scales the shipped costs by the rate of a matrix product. It asks on a terminal,
    unless `yes`, or unless the sizes differ from the preset's, where the estimate is rough.
    """
    costs, note = timing.read_costs(None, config.preset)
    expected = timing.hours(config, costs) or 0.0  # unknown for algorithms of others
    # Short even on a CPU half as fast: not worth measuring this one.
    if expected < _LONG_H / 2 or jax.default_backend() != "cpu":
        return
    matmul = timing.make_matmul()
    here = max(matmul() for _ in range(3))
    expected *= costs[config.algorithm].matmul_gflops / here
    if expected < _LONG_H:
        return
    advice = " --preset laptop learns with small networks in minutes." * (config.preset != "laptop")
    print(
        f"Without an accelerator this run takes at least about {expected:.0f} hours for its "
        f"updates and actions ({config.training.num_env_steps:,} env steps; {note}, scaled by the "
        f"rate of a matrix product, {here:.0f} GFLOP/s here).{advice}",
        flush=True,
    )
    known = preset_settings(config.preset, config.algorithm, config.env) == config.settings
    if not known or yes or not _somebody_answers():
        return
    try:
        agreed = input("Start? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        agreed = False
    require(agreed, "Not started. Use --yes to start without being asked.")


def _somebody_answers() -> bool:
    """Whether this process may read from a terminal; one in the background would be stopped."""
    try:
        terminal = sys.stdin.isatty() and sys.stdout.isatty()
        return terminal and os.getpgrp() == os.tcgetpgrp(sys.stdin.fileno())
    except (AttributeError, OSError, ValueError):  # no such stream, or a closed one
        return False


@contextmanager
def muted_if_nobody_reads() -> Iterator[None]:
    """Afterwards, prints go nowhere if the terminal or pipe has lost its reader."""
    try:
        yield
    finally:
        for descriptor in (1, 2):
            output = select.poll()
            output.register(descriptor, 0)  # POLLHUP and POLLERR are reported in any case
            if output.poll(0):
                with open(os.devnull, "wb") as sink:
                    os.dup2(sink.fileno(), descriptor)


def exit_status(result: RunResult) -> int:
    """0 for a finished run, 1 for a failed one, 75 or 130 for one that a signal stopped."""
    if result.signal is not None:
        return exit_code(result.signal)
    return EXIT_FAILED if result.state == "failed" else 0


def finish(result: RunResult, video: bool) -> int:
    """Shows how a run ended, and draws its pictures; returns the exit status."""
    if result.signal is not None:
        print(f"Stopped by {signal.Signals(result.signal).name} at env step {result.env_step}.")
        print(f"Saved; continue with: dime resume {result.run_dir}")
        return exit_status(result)
    if result.state == "failed":
        print(f"error: the run failed: {result.reason}", file=sys.stderr)
    newest: dict[tuple[int, str], dict[str, Any]] = {}
    for record in read_records(result.run_dir / "evaluations.jsonl"):
        newest[record["seed"], record["mode"]] = record
    print_evaluations(newest[key] for key in sorted(newest))
    print(f"run directory: {result.run_dir}")
    leave_pictures(result.run_dir, video)
    return exit_status(result)


def leave_pictures(run_dir: Path, video: bool) -> None:
    """Draws `learning_curve.png` and records `video.mp4`; says so if one cannot be made."""
    pictures = {"learning curve": lambda: plot([run_dir], run_dir / "learning_curve.png")}
    pictures |= {"video": lambda: _record_video(run_dir)} if video else {}
    for name, make in pictures.items():
        try:
            print(f"wrote {make()}")
        except Exception as error:  # a good run does not end with a failed picture
            print(f"no {name}: {error if isinstance(error, DimeError) else describe(error)}")


def _record_video(run_dir: Path) -> Path:
    restored = restore_agents(run_dir)
    separate = restored.config.training.env_process
    require(not separate, "the run's environments are in separate processes (env_process)")
    modes = find_algorithm(restored.config.algorithm).modes
    mode = "deterministic" if "deterministic" in modes else modes[0]
    record_video(restored, mode, restored.config.env, run_dir / "video.mp4")
    return run_dir / "video.mp4"


def print_evaluations(records: Iterable[dict[str, Any]]) -> None:
    """Prints a table with a row for each evaluation."""
    rows = [["seed", "env step", "mode", "episodes", "mean return", "min", "max", "success"]]
    for record in records:
        returns, success = record["returns"], record["success_any"]
        counts = str(record["seed"]), f"{record['env_step']:,}", record["mode"], str(len(returns))
        values = map(return_text, (fmean(returns), min(returns), max(returns)))
        share = "-" if success is None else f"{100.0 * fmean(success):.0f} %"
        rows.append([*counts, *values, share])
    if len(rows) > 1:
        print_table(rows)
