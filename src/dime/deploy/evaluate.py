"""Evaluating the policies of a run directory, and recording a video of one."""

import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dime.deploy.policy import Restored, restore_agents
from dime.envs.registry import make
from dime.errors import DimeError, require
from dime.training.config import EnvLike
from dime.training.host.evaluation import (
    MAX_EPISODE_STEPS,
    EpisodeResult,
    evaluation_seeds,
    run_episodes,
    summary,
)
from dime.training.host.programs import (
    counters,
    evaluation_actions,
    evaluation_inputs,
    matmul_precision,
    seed_keys,
)
from dime.training.records import require_writable
from dime.training.run import environment_maker


def evaluate(
    run_dir: str | Path,
    mode: str | None = None,
    *,
    episodes: int | None = None,
    env: EnvLike | None = None,
    checkpoint: str | Path | None = None,
    video: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Plays whole episodes with the policies of a run's newest checkpoint.

    With the run's own number of episodes, this repeats the evaluation that the run itself made at
    that env step, episode for episode. Returns a record per seed, as in evaluations.jsonl.

    Args:
        run_dir: the run's folder.
        mode: `stochastic`, `deterministic`, `best_of_n` or another of the algorithm's; by default
            its official one (`dime list algorithms`).
        episodes: how many per seed; by default as many as during training.
        env: the run's environment, needed if it was passed as an object.
        checkpoint: another checkpoint's folder.
        video: also record an episode of the first seed in this file (.mp4, extra `video`).

    Raises:
        DimeError: not a run, no checkpoint or a damaged one, an unknown mode, fewer than one
            episode, no renderer for a video.
    """
    restored = restore_agents(Path(run_dir), Path(checkpoint) if checkpoint else None)
    mode = restored.choose_mode(mode)
    count = restored.config.training.num_evaluation_episodes if episodes is None else episodes
    require(count >= 1, f"episodes is {count}; it must be at least 1.")
    source = environment_of(restored, env, Path(run_dir))
    if video is not None:  # first, so that its errors cost no episodes
        record_video(restored, mode, source, Path(video))
    return _play(restored, mode, count, source)


def environment_of(restored: Restored, env: EnvLike | None, run_dir: Path) -> EnvLike:
    """What makes the run's environment; `DimeError` if it was an object and is not given again."""
    if env is None and restored.config.env_is_object:
        name = restored.config.env
        raise DimeError(
            f"The environment of {run_dir} was passed as a Python object ({name}); evaluate it "
            f'from Python with the same one: dime.evaluate("{run_dir}", env={name})'
        )
    return restored.config.env if env is None else env


def _play(restored: Restored, mode: str, count: int, env: EnvLike) -> list[dict[str, Any]]:
    """Plays as many episodes at a time as the run's own evaluations."""
    env_step = restored.checkpoint.env_step
    at_a_time = min(count, restored.config.training.num_evaluation_episodes)
    seeds = [evaluation_seeds(seed, env_step, count) for seed in restored.seeds]
    played: list[list[EpisodeResult]] = [[] for _ in seeds]
    act = actions_of(restored, mode)
    with ExitStack() as stack:
        environments = []
        for _ in range(at_a_time * len(seeds)):
            environment = stack.enter_context(closing(environment_maker(restored.config, env)()))
            environment.spaces.refuse_if_other(restored.spaces, str(restored.checkpoint.path))
            environments.append(environment)
        for first in range(0, count, at_a_time):
            chosen = [each[first : first + at_a_time] for each in seeds]
            results = run_episodes(environments, chosen, partial(act, first))
            for episodes, more in zip(played, results, strict=True):
                episodes += more
    common = {"env_step": env_step, "updates": restored.checkpoint.run.updates}
    return [
        {**common, "seed": seed, "mode": mode, **summary(episodes)}
        for seed, episodes in zip(restored.seeds, played, strict=True)
    ]


def actions_of(restored: Restored, mode: str) -> Callable[[int, np.ndarray, int], np.ndarray]:
    """Actions in episodes from a first one on, for their observations and the step in them."""
    program = jax.jit(partial(evaluation_actions, restored.agent, mode))
    keys = seed_keys(tuple(restored.seeds))
    at = counters(restored.checkpoint.env_step, restored.checkpoint.run.updates)

    def act(first_episode: int, obs: np.ndarray, step: int) -> np.ndarray:
        inputs = evaluation_inputs(obs, first_episode, step, keys, at)
        with matmul_precision(restored.config.training, jax.default_backend()):
            return np.asarray(program(restored.state, inputs))

    return act


def record_video(restored: Restored, mode: str, env: EnvLike, file: Path) -> None:
    """Records the first evaluation episode of the first seed."""
    environment = make(env, restored.config.env_kwargs, render=True)
    environment.spaces.refuse_if_other(restored.spaces, str(restored.checkpoint.path))
    act = actions_of(restored, mode)
    seed = evaluation_seeds(restored.seeds[0], restored.checkpoint.env_step, 1)[0]
    stride = max(1, round(environment.frames_per_second / 30))  # about 30 frames per second

    def frames() -> Iterator[np.ndarray]:
        obs = environment.reset(seed)
        yield environment.render()
        for step in range(MAX_EPISODE_STEPS):
            everyone = np.broadcast_to(obs, (len(restored.seeds), 1, len(obs)))
            obs, _, terminated, truncated, _ = environment.step(act(0, everyone, step)[0, 0])
            ended = terminated or truncated
            if ended or step % stride == stride - 1:
                yield environment.render()
            if ended:
                break

    with closing(environment):
        write_video(file, frames(), environment.frames_per_second / stride)


def refuse_unless_writable(file: Path) -> None:
    """Raises `DimeError` if `write_video` would: another suffix, no folder, no encoder."""
    if file.suffix != ".mp4":
        raise DimeError(f"A video's name must end in .mp4, got {file}.")
    require_writable(file)
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        raise DimeError("Writing a video needs an encoder: pip install 'dime-rl[video]'")


def write_video(file: Path, frames: Iterable[np.ndarray], frames_per_second: float) -> None:
    """Writes an H.264 video (.mp4) that browsers play, of frames uint8 (height, width, 3)."""
    import imageio  # needed for videos alone

    refuse_unless_writable(file)
    # Between fork and exec no Python may run: the process has JAX's threads, and could lock up.
    os.environ.setdefault("IMAGEIO_FFMPEG_NO_PREVENT_SIGINT", "1")
    unfinished = file.with_name(f".{file.stem}.tmp.mp4")
    options = {"codec": "libx264", "pixelformat": "yuv420p", "macro_block_size": 2}
    options["output_params"] = ["-movflags", "+faststart"]
    try:
        writer: Any = imageio.get_writer(unfinished, fps=frames_per_second, **options)
        with writer:
            for frame in frames:
                writer.append_data(frame)
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
