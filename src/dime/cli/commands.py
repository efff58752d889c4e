"""The commands of `dime` and their options, from which the command line and its help are made."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

import tyro

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
    video: bool = True
    """Film an episode of the trained policy at the end."""
    yes: bool = False
    """Start even if the run will take hours, without asking."""


@dataclass(frozen=True)
class Resume:
    """Continue a run from its newest intact checkpoint, as if it had never stopped."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """The run's folder."""
    num_env_steps: int | None = None
    """A larger number extends the run."""
    max_env_restarts: int | None = None
    """A larger number gives environments that raised further tries."""
    env_process: bool | None = None
    """From here on, every environment in a process of its own, or none."""
    env_timeout_s: float | None = None
    """From here on, how long such an environment may take for an answer."""
    video: bool = True
    """Film an episode of the trained policy at the end."""


@dataclass(frozen=True)
class Evaluate:
    """Play whole episodes with the policies of a run."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """The run's folder."""
    mode: str | None = None
    """How actions are chosen, by default the algorithm's official mode (`dime list algorithms`)."""
    episodes: int | None = None
    """Episodes per seed; by default as many as during training."""
    checkpoint: Path | None = None
    """Another checkpoint's folder than the newest one."""
    video: Path | None = None
    """Also film an episode of the first seed into this file (.mp4)."""


@dataclass(frozen=True)
class Export:
    """Write a run's policy as a folder that runs without this package."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """The run's folder."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder to make."""
    format: Literal["stablehlo", "onnx", "safetensors"] = "stablehlo"
    """For jax, for onnxruntime, or the weights alone (docs/deployment.md)."""
    mode: str | None = None
    """How actions are chosen, by default the algorithm's official mode (`dime list algorithms`)."""
    batch: int | Literal["dynamic"] = 1
    """How many observations it takes at a time; `dynamic` for any number."""
    seed: int | None = None
    """Which of the run's seeds; by default the first."""
    checkpoint: Path | None = None
    """Another checkpoint's folder than the newest one."""
    opset: int | None = None
    """Of an ONNX graph; by default the lowest that has all its operations."""


@dataclass(frozen=True)
class Sweep:
    """Run a study: many trials side by side, resumed where they stand."""

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


@dataclass(frozen=True)
class Plot:
    """Draw the learning curves of runs and studies; of a multi-goal run also its paths."""

    run_dirs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN_DIR...")]
    """Folders of runs or studies; those on one environment share a panel."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Picture to write: .png, .svg or .pdf."""
    reference: str | None = None
    """CSV of curves to draw beside them; `shipped` for the authors' published ones."""
    by: tuple[str, ...] = ()
    """Settings to tell runs of one algorithm apart by, as settings.policy.num_denoising_steps;
    those that a study varies are known."""


@dataclass(frozen=True)
class Figure:
    """Draw a figure of the paper from the records of its study."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")]
    """Its number: 1, 2a to 2d, 3a to 3d, 4, 5, 6, 7, 8, 9; or `comparison`, ours."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Picture to write: .png, .svg or .pdf."""
    run_dirs: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="STUDY_OR_RUN...")
    ] = ()
    """Folders of its study or of runs; none for figure 5."""
    reference: str | None = None
    """CSV of curves to draw beside them; `shipped` for the authors' published ones."""


@dataclass(frozen=True)
class Inspect:
    """Draw what a diffusion policy does in states of an episode, and animate its chains."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN_DIR")]
    """The run's folder."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for the pictures."""
    checkpoint: Path | None = None
    """Another checkpoint's folder than the newest one."""
    states: int = 3
    """How many states, spread over the episode."""
    plane: tuple[int, ...] | None = None
    """One action dimension or two; by default the first two."""
    seed: int | None = None
    """Which of the run's seeds; by default the first."""
    format: Literal["png", "svg", "pdf"] = "png"
    """Of the figures."""
    animation: Literal["gif", "mp4"] = "gif"
    """Of the animation."""


@dataclass(frozen=True)
class Report:
    """Write one HTML file on runs and studies, which opens without a network."""

    run_dirs: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="STUDY_OR_RUN...")
    ]
    """Folders of studies or runs."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """File to write: report.html."""
    reference: str | None = None
    """CSV of curves to draw beside them; `shipped` for the authors' published ones."""


@dataclass(frozen=True)
class Serve:
    """Show the report of all runs below a folder in a browser; it follows them while they train."""

    runs_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUNS_DIR")]
    """Folder with runs and studies anywhere below it."""
    port: int = 8420
    """Of 127.0.0.1, which only this machine reaches."""
    open_browser: bool = False
    """Open the page in a browser."""


@dataclass(frozen=True)
class List:
    """Show what there is."""

    what: tyro.conf.Positional[Literal["algorithms", "environments", "presets", "studies"]]
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
    all_algorithms: bool = False
    """Time an update and an action of every algorithm instead, at the preset's sizes."""
    preset: str = "paper"
    """Whose sizes: `paper`, `released` or `laptop`; with --all-algorithms."""


COMMANDS = {
    "train": Train,
    "resume": Resume,
    "evaluate": Evaluate,
    "export": Export,
    "sweep": Sweep,
    "plot": Plot,
    "figure": Figure,
    "inspect": Inspect,
    "report": Report,
    "serve": Serve,
    "list": List,
    "doctor": Doctor,
    "benchmark": Benchmark,
}
