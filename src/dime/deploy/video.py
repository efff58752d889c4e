"""Writing films."""

import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from dime.errors import DimeError
from dime.training.records import require_writable


def refuse_unless_writable(file: Path) -> None:
    """Raises `DimeError` where `write_video` would: another suffix, no folder, no encoder."""
    if file.suffix != ".mp4":
        raise DimeError(f"A film's name must end in .mp4, got {file}.")
    require_writable(file)
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        raise DimeError("Writing a film needs an encoder: pip install 'dime-rl[video]'")


def write_video(file: Path, frames: Iterable[np.ndarray], frames_per_second: float) -> None:
    """Writes an H.264 film that browsers play.

    Args:
        file: where to; the name ends in .mp4.
        frames: uint8 pictures (height, width, 3) of even size.
        frames_per_second: how fast it plays.

    Raises:
        DimeError: another suffix, no such folder, or no encoder (extra `video`).
    """
    import imageio  # films alone need it

    refuse_unless_writable(file)
    # Between fork and exec no Python may run: the process has JAX's threads, and could lock up.
    os.environ.setdefault("IMAGEIO_FFMPEG_NO_PREVENT_SIGINT", "1")
    unfinished = file.with_name(f".{file.stem}.tmp.mp4")
    writer = imageio.get_writer(
        unfinished,
        fps=frames_per_second,
        codec="libx264",
        pixelformat="yuv420p",
        macro_block_size=2,
        output_params=["-movflags", "+faststart"],
    )
    try:
        with writer:
            for frame in frames:
                writer.append_data(frame)
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
