"""The commands of `dime`: each is a class of its options, whose `run` may return an exit status.

The command line and its help are made from them. What a command needs is imported when it runs, so
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
    tyro.conf.arg(
        metavar="ENV", help_behavior_hint="(the first word; may be left out with --config)"
    ),
]
RunDir = Annotated[
    tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR", help="The run's folder.")
]
Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
Picture = Annotated[
    Path, tyro.conf.arg(aliases=["-o"], help="Picture to write: .png, .svg or .pdf.")
]
Mode = Annotated[
    str | None,
    tyro.conf.arg(
        help="How actions are chosen, by default the algorithm's official mode (`dime list "
        "algorithms`)."
    ),
]
Checkpoint = Annotated[
    Path | None, tyro.conf.arg(help="Another checkpoint's folder than the newest one.")
]
Seed = Annotated[int | None, tyro.conf.arg(help="Which of the run's seeds; by default the first.")]
FinalVideo = Annotated[
    bool, tyro.conf.arg(help="Record a video of the trained policy's episode at the end.")
]
Reference = Annotated[
    str | None,
    tyro.conf.arg(
        help="CSV of curves to draw beside them; `shipped` for the authors' published ones."
    ),
]


@dataclass(frozen=True)
class Train(Generic[Training, Settings]):
    """Train agents; leave a run directory with records, checkpoints, a curve and a video."""

    env: EnvId
    """Id of the environment, as `dm_control/cartpole-swingup`, `Humanoid-v4`,
    `myoHandReachRandom-v0`, `module:Id` (`dime list environments`)."""
    training: Annotated[Training, tyro.conf.arg(name="")]
    settings: Annotated[Settings, tyro.conf.arg(name="")]
    algorithm: str = "dime"
    """One of `dime list algorithms`, or `module:NAME` for one of your own; the options below are
    those of the one chosen."""
    preset: str = "paper"
    """What the options start from: `paper`, `released` or `laptop` (`dime list presets`)."""
    config: Path | None = None
    """Start from this config.json of a run instead of a preset."""
    run_dir: Path | None = None
    """Where the run goes; by default runs/ENV/ALGORITHM/<date-time>."""
    env_kwargs: tuple[str, ...] = ()
    """Passed to the environment, as name=value: use_contact_forces=true."""
    video: FinalVideo = True
    yes: bool = False
    """Start even if the run will take hours, without asking."""

    def run(self) -> int:
        from dime.cli.train import announce_duration, finish, muted_if_nobody_reads
        from dime.training.config import RunConfig
        from dime.training.run import Hooks, start_run

        training: Any = self.training
        config = RunConfig(
            env=self.env,
            env_kwargs=read_env_kwargs(self.env_kwargs),
            algorithm=self.algorithm,
            preset=self.preset,
            training=training,
            settings=self.settings,
        )
        hooks = Hooks(before_start=lambda config: announce_duration(config, self.yes))
        with muted_if_nobody_reads():
            result = start_run(config, config.env, self.run_dir, hooks)
        return finish(result, self.video)


@dataclass(frozen=True)
class Resume:
    """Continue a run from its newest intact checkpoint, as if it had never stopped."""

    run_dir: RunDir
    num_env_steps: int | None = None
    """A larger number extends the run."""
    max_env_restarts: int | None = None
    """A larger number gives environments that raised further tries."""
    env_process: bool | None = None
    """From here on, every environment in a separate process, or none."""
    env_timeout_s: float | None = None
    """From here on, how long such an environment may take to answer."""
    video: FinalVideo = True

    def run(self) -> int:
        from dime.cli.train import finish, muted_if_nobody_reads
        from dime.training.run import Changes, Hooks, resume_run

        changes = Changes(
            self.num_env_steps, self.max_env_restarts, self.env_process, self.env_timeout_s
        )
        with muted_if_nobody_reads():
            result = resume_run(self.run_dir, None, changes, Hooks())
        return finish(result, self.video)


@dataclass(frozen=True)
class Evaluate:
    """Play whole episodes with the policies of a run."""

    run_dir: RunDir
    mode: Mode = None
    episodes: int | None = None
    """Episodes per seed; by default as many as during training."""
    checkpoint: Checkpoint = None
    video: Path | None = None
    """Also record an episode of the first seed to this file (.mp4)."""

    def run(self) -> None:
        from dime.cli.train import evaluation_table
        from dime.deploy.evaluate import disagreement, evaluate

        records = evaluate(**vars(self))
        print(evaluation_table(records))
        if note := disagreement(self.run_dir, records):
            print(note)
        _print_written(filter(None, [self.video]))


@dataclass(frozen=True)
class Export:
    """Write a run's policy as a folder that runs without this package."""

    run_dir: RunDir
    output: Output
    """Folder to make."""
    format: Literal["stablehlo", "onnx", "safetensors"] = "stablehlo"
    """For jax, for onnxruntime, or the weights alone (docs/deployment.md)."""
    mode: Mode = None
    batch: int | Literal["dynamic"] = 1
    """How many observations it takes at a time; `dynamic` for any number."""
    seed: Seed = None
    checkpoint: Checkpoint = None
    opset: int | None = None
    """Of an ONNX graph; by default the lowest that has all its operations."""

    def run(self) -> None:
        from dime.deploy.export import export_policy

        _print_written([export_policy(**vars(self))])


@dataclass(frozen=True)
class Sweep:
    """Run a study: many trials side by side; the same command continues it."""

    study: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="STUDY")]
    """A .toml or .py file, or the name of a shipped study (`dime list studies`)."""
    storage: str = "runs"
    """Folder for the study's folder; for several machines one that all of them see, or a URI
    that Ray accepts, as s3://bucket/path."""
    variant: str | None = None
    """`laptop` for the study's variant that ends in minutes on two cores."""
    address: str | None = None
    """Of a Ray cluster: `auto`, or host:port; by default this machine alone."""
    dry_run: bool = False
    """Only list the trials and what they will cost."""
    emit: Literal["slurm"] | None = None
    """Only write a job array for a cluster without Ray."""
    trial: int | None = None
    """Only run the trial of this number, here and without Ray (what the job array does)."""
    figures: Path | None = None
    """Costs come from this file of `dime benchmark --all-algorithms --json` instead of the shipped
    one."""

    def run(self) -> int:
        from dime.sweeps import show_costs, sweep, write_job_array

        if self.dry_run:
            show_costs(self.study, self.variant, self.figures)
            return 0
        if self.emit is not None:
            _print_written([write_job_array(self.study, self.storage, self.variant)])
            return 0
        if self.trial is not None:
            return self._run_one(self.trial)
        try:
            result = sweep(
                self.study, storage=self.storage, variant=self.variant, address=self.address
            )
        except KeyboardInterrupt:
            print("The same command continues from the last checkpoints.", file=sys.stderr)
            raise
        for name, reason in result.failed.items():
            print(f"error: {name} failed:\n{reason}", file=sys.stderr)
        counts = f"{len(result.finished)} finished, {len(result.failed)} failed"
        early = f", {len(result.stopped_early)} stopped early" if result.stopped_early else ""
        print(f"{result.folder}: {counts}{early}")
        return EXIT_FAILED if result.failed else 0

    def _run_one(self, number: int) -> int:
        from dime.cli.train import muted_if_nobody_reads
        from dime.sweeps import run_one
        from dime.training.process import exit_code

        with muted_if_nobody_reads():
            result = run_one(self.study, self.storage, self.variant, number)
        if result is None:
            print("This trial has finished before.")
            return 0
        if result.signal is not None:
            return exit_code(result.signal)
        return EXIT_FAILED if result.state == "failed" else 0


@dataclass(frozen=True)
class Plot:
    """Draw the learning curves of runs and studies; of a multi-goal run also its paths."""

    run_dirs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN_DIR...")]
    """Folders of runs or studies; those on one environment share a panel."""
    output: Picture
    reference: Reference = None
    by: tuple[str, ...] = ()
    """Settings to tell runs of one algorithm apart by, as settings.policy.num_denoising_steps;
    those that a study varies are known."""

    def run(self) -> None:
        from dime.figures.learning import plot

        _print_written([plot(**vars(self))])


@dataclass(frozen=True)
class Figure:
    """Draw a figure of the paper from the records of its study."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """Its number: 1, 2a to 2d, 3a to 3d, 4, 5, 6, 7, 8, 9; or `comparison`, ours."""
    output: Picture
    run_dirs: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="STUDY_OR_RUN...")
    ] = ()
    """Folders of its study or of runs; none for figure 5."""
    reference: Reference = None

    def run(self) -> None:
        from dime.figures.paper import draw_figure

        _print_written([draw_figure(**vars(self))])


@dataclass(frozen=True)
class Inspect:
    """Draw what a diffusion policy does in states of an episode, and animate its chains."""

    run_dir: RunDir
    output: Output
    """Folder for the pictures."""
    checkpoint: Checkpoint = None
    states: int = 3
    """How many states, spread over the episode."""
    plane: tuple[int, ...] | None = None
    """One action dimension or two; by default the first two."""
    seed: Seed = None
    format: Literal["png", "svg", "pdf"] = "png"
    """Of the figures."""
    animation: Literal["gif", "mp4"] = "gif"
    """Of the animation."""

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
    """Write one HTML file on runs and studies, which opens without a network."""

    run_dirs: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="STUDY_OR_RUN...")
    ]
    """Folders of studies or runs."""
    output: Output
    """File to write: report.html."""
    reference: Reference = None

    def run(self) -> None:
        from dime.report import write_report

        _print_written([write_report(**vars(self))])


@dataclass(frozen=True)
class Serve:
    """Show the report of all runs below a folder in a browser; it follows them while they train."""

    runs_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUNS_DIR")]
    """Folder with runs and studies anywhere below it."""
    port: int = 8420
    """Of 127.0.0.1, which only this machine reaches."""
    open_browser: bool = False
    """Open the page in a browser."""

    def run(self) -> None:
        from dime.report import serve

        serve(**vars(self))


@dataclass(frozen=True)
class List:
    """Show what there is."""

    what: tyro.conf.Positional[Literal["algorithms", "environments", "presets", "studies"]]
    """What to show."""

    def run(self) -> None:
        if self.what == "environments":
            from dime.envs.registry import list_environments

            for suite, ids in list_environments().items():
                print(f"{suite} ({len(ids)}):", *(f"  {name}" for name in ids), sep="\n")
        elif self.what == "studies":
            files = sorted(_PACKAGE.joinpath("sweeps", "studies").glob("*.toml"))
            tables = [tomllib.loads(file.read_text("utf-8")) for file in files]
            _print_table([[f.stem, t["description"]] for f, t in zip(files, tables, strict=True)])
        else:  # from a file, because JAX is slow to import; a test compares it with the algorithms
            file = _PACKAGE / "data" / f"{self.what}.json"
            _print_table(json.loads(file.read_text("utf-8")))


@dataclass(frozen=True)
class Doctor:
    """Check this machine: device, versions, suites, renderer, combinations known to fail."""

    def run(self) -> int:
        from dime.cli.doctor import examine

        return examine()


@dataclass(frozen=True)
class Benchmark:
    """Time updates, acting and the loop on this machine, as a share of its matrix products."""

    json: Path | None = None
    """Also write the figures to this file."""
    cases: tuple[str, ...] = ("paper/dog-run", "paper/humanoid-run", "small/cheetah-run")
    """Which sizes to time."""
    all_algorithms: bool = False
    """Time an update and an action of every algorithm instead, at the preset's sizes."""
    preset: str = "paper"
    """Whose sizes: `paper`, `released` or `laptop`; with --all-algorithms."""

    def run(self) -> None:
        from dime.benchmark.benchmark import benchmark, benchmark_all

        if self.all_algorithms:
            benchmark_all(self.preset, self.json)
        else:
            benchmark(self.cases, self.json)


COMMANDS = {
    command.__name__.lower(): command
    for command in (
        *(Train, Resume, Evaluate, Export, Sweep),
        *(Plot, Figure, Inspect, Report, Serve),
        *(List, Doctor, Benchmark),
    )
}


def _print_written(files: Iterable[Path]) -> None:
    for file in files:
        print(f"wrote {file}")


def _print_table(rows: list[list[str]]) -> None:
    """Columns are as wide as their longest entry."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def read_env_kwargs(words: tuple[str, ...]) -> dict[str, Any]:
    """Reads `name=value`; a value is JSON if it can be, else text."""
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
