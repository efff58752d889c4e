"""What a training command leaves at its end: a table, a curve, a film."""

from pathlib import Path
from statistics import fmean
from typing import Any

import rich.box
import rich.console
import rich.table

from dime.algorithms.registry import find_algorithm
from dime.deploy.evaluate import film
from dime.deploy.policy import restore_agents
from dime.errors import DimeError
from dime.figures.figures import plot
from dime.training.listeners import return_text
from dime.training.records import read_records


def leave_pictures(run_dir: Path, video: bool) -> None:
    """Draws `learning_curve.png` and films `video.mp4`; says so where one cannot be made."""
    try:
        plot([run_dir], run_dir / "learning_curve.png")
        print(f"wrote {run_dir / 'learning_curve.png'}")
    except Exception as error:  # no picture is worth the end of a good run
        print(f"no learning curve: {_short(error)}")
    if not video:
        return
    try:
        restored = restore_agents(run_dir)
        if restored.config.training.env_process:
            print("no film: the run's environments are in processes of their own (env_process)")
            return
        modes = find_algorithm(restored.config.algorithm).modes
        mode = "deterministic" if "deterministic" in modes else modes[0]
        film(restored, mode, restored.config.env, run_dir / "video.mp4")
        print(f"wrote {run_dir / 'video.mp4'} (an episode, {mode} actions)")
    except Exception as error:  # likewise; also whatever an encoder raises
        print(f"no film: {_short(error)}")


def _short(error: Exception) -> str:
    return str(error) if isinstance(error, DimeError) else f"{type(error).__name__}: {error}"


def result_table(run_dir: Path) -> str:
    """The newest evaluation of every seed and mode."""
    newest: dict[tuple[int, str], dict[str, Any]] = {}
    for record in read_records(run_dir / "evaluations.jsonl"):
        newest[record["seed"], record["mode"]] = record
    return evaluation_table([newest[key] for key in sorted(newest)])


def evaluation_table(records: list[dict[str, Any]]) -> str:
    """Evaluations, a row each."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for title in ("seed", "env step", "mode", "episodes", "mean return", "min", "max", "success"):
        table.add_column(title, justify="left" if title == "mode" else "right")
    for record in records:
        returns, success = record["returns"], record["success_any"]
        table.add_row(
            str(record["seed"]),
            f"{record['env_step']:,}",
            record["mode"],
            str(len(returns)),
            *map(return_text, (fmean(returns), min(returns), max(returns))),
            "-" if success is None else f"{100.0 * fmean(success):.0f} %",
        )
    console = rich.console.Console(width=100)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()
