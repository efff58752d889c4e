"""From names and options to the config of a run."""

import dataclasses
import json
from importlib import resources
from typing import Any

from dime.errors import DimeError, choose
from dime.training.config import EnvLike, RunConfig, TrainingConfig, replace_nested
from dime.training.presets import preset_settings, preset_training

# A data file, so that `dime list presets` needs no JAX.
_PRESETS_FILE = resources.files("dime").joinpath("data", "presets.json")
PRESETS = dict(json.loads(_PRESETS_FILE.read_text("utf-8")))
"""What each preset is, by name."""

_OF_EVERY_RUN = {"env", "algorithm", "preset", "config", "run_dir", "env_kwargs", "video", "yes"}


def _describe(env: EnvLike) -> str:
    """An id, or the name of what makes the environment."""
    return env if isinstance(env, str) else getattr(env, "__name__", type(env).__name__)


def make_config(
    env: EnvLike,
    algorithm: str = "dime",
    preset: str = "paper",
    env_kwargs: dict[str, Any] | None = None,
    **options: Any,
) -> RunConfig:
    """The config of a run: a preset with `options` (as for `train`) in it."""
    choose("preset", preset, PRESETS)
    # A factory's name may be that of an environment that it does not make.
    env_id = env if isinstance(env, str) else ""
    settings = preset_settings(preset, algorithm, env_id)
    of_loop = {field.name for field in dataclasses.fields(TrainingConfig)}
    of_algorithm = {field.name for field in dataclasses.fields(settings)}
    taken = of_algorithm & (of_loop | _OF_EVERY_RUN)
    if taken:
        raise DimeError(
            f"The config of the algorithm '{algorithm}' has a field {min(taken)!r}, which is an "
            "option of every run. Give it another name."
        )
    for name in options:
        choose("option", name, of_loop | of_algorithm)
    for_loop = {name: value for name, value in options.items() if name in of_loop}
    for_algorithm = {name: value for name, value in options.items() if name in of_algorithm}
    return RunConfig(
        env=_describe(env),
        env_kwargs=env_kwargs or {},
        env_is_object=not isinstance(env, str),
        algorithm=algorithm,
        preset=preset,
        training=replace_nested(preset_training(preset, algorithm, env_id), for_loop),
        settings=replace_nested(settings, for_algorithm),
    )
