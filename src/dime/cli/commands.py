"""The commands of `dime`: each is a class of its options, whose `run` may return an exit status.

The command line and its help are made from them. Commands import what they need when they run, so
that the others start quickly.
"""

import json
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro

from dime.errors import require

EXIT_FAILED = 1
_PACKAGE = Path(__file__).parents[1]

Settings = TypeVar("Settings")
Training = TypeVar("Training")
# Options that several commands have.
EnvId = Annotated[
    tyro.conf.Positional[str],
    tyro.conf.arg(metavar="ENV", help_behavior_hint="(comes first; optional with --config)"),
]
RunDir = Annotated[
    tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR", help="Run directory.")
]
StudiesOrRuns = Annotated[
    tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="STUDY_OR_RUN...")
]
Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
Picture = Annotated[
    Path, tyro.conf.arg(aliases=["-o"], help="Picture to write: .png, .svg or .pdf.")
]
_MODE = "How actions are chosen; by default the algorithm's official mode (`dime list algorithms`)."
Mode = Annotated[str | None, tyro.conf.arg(help=_MODE)]
Checkpoint = Annotated[
    Path | None, tyro.conf.arg(help="Folder of a checkpoint; by default the newest.")
]
Seed = Annotated[int | None, tyro.conf.arg(help="One of the run's seeds; by default the first.")]
FinalVideo = Annotated[
    bool, tyro.conf.arg(help="At the end, record an episode of the trained policy as a video.")
]
_REFERENCE = "CSV of curves to overlay, or `shipped` for the authors' published ones."
Reference = Annotated[str | None, tyro.conf.arg(help=_REFERENCE)]


@dataclass(frozen=True)
class Train(Generic[Training, Settings]):
    """Train agents and write a run directory: records, checkpoints, learning curve, video."""

    env: EnvId
    """Environment id, such as `dm_control/cartpole-swingup` or `module:Id` for your own
    (`dime list environments`)."""
    training: Annotated[Training, tyro.conf.arg(name="")]
    settings: Annotated[Settings, tyro.conf.arg(name="")]
    algorithm: str = "dime"
    """One of `dime list algorithms`, or `module:NAME` for your own. Options depend on it."""
    preset: str = "paper"
    """Default values of the options: `paper`, `released` or `laptop` (`dime list presets`)."""
    config: Path | None = None
    """Take the default values from this config.json of a run instead of a preset."""
    run_dir: Path | None = None
    """Folder to create; by default runs/ENV/ALGORITHM/<date-time>."""
    env_kwargs: tuple[str, ...] = ()
    """Arguments of the environment, as name=value: use_contact_forces=true."""
    video: FinalVideo = True
    yes: bool = False
    """Start without asking, even if the run will take hours."""

    def run(self) -> int:
        from dime.cli.train import announce_duration, finish, muted_if_nobody_reads
        from dime.training.config import RunConfig
        from dime.training.run import start_run

        kept: Any = {
            name: getattr(self, name)
            for name in ("env", "algorithm", "preset", "training", "settings")
        }
        config = RunConfig(**kept, env_kwargs=read_env_kwargs(self.env_kwargs))
        with muted_if_nobody_reads():
            result = start_run(
                config,
                config.env,
                self.run_dir,
                before_start=lambda config: announce_duration(config, self.yes),
            )
        return finish(result, self.video)


@dataclass(frozen=True)
class Resume:
    """Continue a run from its newest intact checkpoint, as if it had never stopped."""

    run_dir: RunDir
    num_env_steps: int | None = None
    """New length of the run, to extend it."""
    max_env_restarts: int | None = None
    """New limit, to give environments that raised an exception more attempts."""
    env_process: bool | None = None
    """Whether from now on each environment runs in its own process."""
    env_timeout_s: float | None = None
    """From now on, the longest time for an answer of such an environment, in seconds."""
    video: FinalVideo = True

    def run(self) -> int:
        from dime.cli.train import finish, muted_if_nobody_reads
        from dime.training.run import CHANGEABLE, resume_run

        changes = {name: getattr(self, name) for name in CHANGEABLE}
        with muted_if_nobody_reads():
            result = resume_run(self.run_dir, None, changes)
        return finish(result, self.video)


@dataclass(frozen=True)
class Evaluate:
    """Evaluate the policies of a run over whole episodes."""

    run_dir: RunDir
    mode: Mode = None
    episodes: int | None = None
    """Episodes per seed; by default as many as during training."""
    checkpoint: Checkpoint = None
    video: Path | None = None
    """Also record an episode of the first seed in this file (.mp4)."""

    def run(self) -> None:
        from dime.cli.train import print_evaluations
        from dime.deploy.evaluate import evaluate

        print_evaluations(evaluate(**vars(self)))
        _print_written(filter(None, [self.video]))


@dataclass(frozen=True)
class Export:
    """Export a run's policy to a folder that works without this package."""

    run_dir: RunDir
    output: Output
    """Folder to create."""
    format: Literal["stablehlo", "onnx", "safetensors"] = "stablehlo"
    """A program for JAX or onnxruntime, or the weights alone (docs/deployment.md)."""
    mode: Mode = None
    batch: int | Literal["dynamic"] = 1
    """Observations per call; `dynamic` for any number."""
    seed: Seed = None
    checkpoint: Checkpoint = None
    opset: int | None = None
    """ONNX operator set; by default the lowest that has all operations used."""

    def run(self) -> None:
        from dime.deploy.export import export_policy

        _print_written([export_policy(**vars(self))])


@dataclass(frozen=True)
class Sweep:
    """Run the trials of a study in parallel; the same command continues it."""

    study: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="STUDY")]
    """A .toml or .py file, or the name of a shipped study (`dime list studies`)."""
    storage: str = "runs"
    """Parent folder; on several machines a shared one, or a URI such as s3://bucket/path."""
    variant: str | None = None
    """`laptop` for the study's variant that takes minutes on two cores."""
    address: str | None = None
    """Address of a Ray cluster: `auto` or host:port; by default this machine alone."""
    dry_run: bool = False
    """Only list the trials and their estimated cost."""
    emit: Literal["slurm"] | None = None
    """Only write a job array, for a SLURM cluster without Ray."""
    trial: int | None = None
    """Only run the trial with this number, here and without Ray (what the job array does)."""
    figures: Path | None = None
    """Costs from `dime benchmark --all-algorithms --json`, instead of the shipped ones."""

    def run(self) -> int:
        from dime.cli.train import exit_status, muted_if_nobody_reads
        from dime.sweeps import run_one, show_costs, sweep, write_job_array

        if self.dry_run:
            show_costs(self.study, self.variant, self.figures)
            return 0
        if self.emit is not None:
            _print_written([write_job_array(self.study, self.storage, self.variant)])
            return 0
        if self.trial is not None:
            with muted_if_nobody_reads():
                one = run_one(self.study, self.storage, self.variant, self.trial)
            return exit_status(one) if one else 0
        result = sweep(self.study, storage=self.storage, variant=self.variant, address=self.address)
        for name, reason in result.failed.items():
            print(f"error: {name} failed:\n{reason}", file=sys.stderr)
        print(
            f"{result.folder}: {len(result.finished)} finished, {len(result.failed)} failed, "
            f"{len(result.stopped_early)} stopped early"
        )
        return EXIT_FAILED if result.failed else 0


@dataclass(frozen=True)
class Plot:
    """Draw the learning curves of runs and studies, and the paths of multi-goal runs."""

    run_dirs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN_DIR...")]
    """Folders of runs or studies; each environment has a panel."""
    output: Picture
    reference: Reference = None
    by: tuple[str, ...] = ()
    """Settings that separate runs of one algorithm: settings.policy.num_denoising_steps. Those
    that a study varies always do."""

    def run(self) -> None:
        from dime.figures.learning import plot

        _print_written([plot(**vars(self))])


@dataclass(frozen=True)
class Figure:
    """Draw a figure of the paper from the records of its study."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """Its number: 1, 2a to 2d, 3a to 3d, 4 to 9; or `comparison`, our own figure."""
    output: Picture
    run_dirs: StudiesOrRuns = ()
    """Folders of its study or of runs; none for figure 5."""
    reference: Reference = None

    def run(self) -> None:
        from dime.figures.paper import draw_figure

        _print_written([draw_figure(**vars(self))])


@dataclass(frozen=True)
class Inspect:
    """Draw what a diffusion policy does in states of one episode, and animate its chains."""

    run_dir: RunDir
    output: Output
    """Folder for the figures and the animation."""
    checkpoint: Checkpoint = None
    states: int = 3
    """Number of states, spread evenly over the episode."""
    plane: tuple[int, ...] | None = None
    """One or two action dimensions; by default the first two."""
    seed: Seed = None
    format: Literal["png", "svg", "pdf"] = "png"
    """File format of the figures."""
    animation: Literal["gif", "mp4"] = "gif"
    """File format of the animation."""

    def run(self) -> None:
        from dime.figures.policy import InspectOptions
        from dime.figures.policy_drawing import inspect_policy

        options = InspectOptions(
            checkpoint=self.checkpoint,
            num_states=self.states,
            plane=self.plane,
            seed=self.seed,
            figure_suffix=f".{self.format}",
            animation_suffix=f".{self.animation}",
        )
        _print_written(inspect_policy(self.run_dir, self.output, options))


@dataclass(frozen=True)
class Report:
    """Write a report on runs and studies: one HTML file that opens offline."""

    run_dirs: StudiesOrRuns
    """Folders of studies or runs."""
    output: Output
    """File to write, such as report.html."""
    reference: Reference = None

    def run(self) -> None:
        from dime.report import write_report

        _print_written([write_report(**vars(self))])


@dataclass(frozen=True)
class Serve:
    """Serve a report on all runs below a folder; the page follows them while they train."""

    runs_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUNS_DIR")]
    """Folder with runs and studies at any depth."""
    port: int = 8420
    """Port on 127.0.0.1, which only this machine can reach."""
    open_browser: bool = False
    """Open the page in a browser."""

    def run(self) -> None:
        from dime.report import serve

        serve(**vars(self))


@dataclass(frozen=True)
class List:
    """List algorithms, environments, presets or studies."""

    what: tyro.conf.Positional[Literal["algorithms", "environments", "presets", "studies"]]
    """What to list."""

    def run(self) -> None:
        if self.what == "environments":
            from dime.envs.registry import list_environments

            for suite, ids in list_environments().items():
                print(f"{suite} ({len(ids)}):", *ids, sep="\n  ")
        elif self.what == "studies":
            files = sorted(_PACKAGE.joinpath("sweeps", "studies").glob("*.toml"))
            tables = [tomllib.loads(file.read_text("utf-8")) for file in files]
            print_table([[f.stem, t["description"]] for f, t in zip(files, tables, strict=True)])
        else:  # from a file, because importing JAX is slow; a test compares it with the algorithms
            file = _PACKAGE / "data" / f"{self.what}.json"
            print_table(json.loads(file.read_text("utf-8")))


@dataclass(frozen=True)
class Doctor:
    """Check this machine: device, versions, suites, renderer, combinations known to fail."""

    def run(self) -> int:
        from dime.cli.doctor import examine

        return examine()


@dataclass(frozen=True)
class Benchmark:
    """Time updates, actions and the training loop, relative to this machine's matrix products."""

    json: Path | None = None
    """Also write the results to this file."""
    cases: tuple[str, ...] = ("paper/dog-run", "paper/humanoid-run", "small/cheetah-run")
    """Problem sizes to time."""
    all_algorithms: bool = False
    """Instead, time an update and an action of every algorithm at the sizes of a preset."""
    preset: str = "paper"
    """With --all-algorithms: `paper`, `released` or `laptop`."""

    def run(self) -> None:
        from dime.benchmark.benchmark import benchmark, benchmark_all

        if self.all_algorithms:
            benchmark_all(self.preset, self.json)
        else:
            benchmark(self.cases, self.json)


COMMANDS = {
    command.__name__.lower(): command
    for command in (Train, Resume, Evaluate, Export, Sweep, Plot, Figure, Inspect, Report, Serve)
    + (List, Doctor, Benchmark)
}


def _print_written(files: Iterable[Path]) -> None:
    for file in files:
        print(f"wrote {file}")


def print_table(rows: list[list[str]]) -> None:
    """Prints rows with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def read_env_kwargs(words: tuple[str, ...]) -> dict[str, Any]:
    """Parses `name=value`; a value is JSON if it can be, else text."""
    kwargs: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        valid = bool(equals) and name.isidentifier()
        require(valid, f"--env-kwargs takes name=value, got '{word}'.")
        try:
            kwargs[name] = json.loads(value)
        except ValueError:
            kwargs[name] = value
    return kwargs
