"""Settings at sizes that compile and run quickly, whatever the algorithm."""

import dataclasses

from dime.training.config import replace_nested

_SMALL = {
    "hidden_dim": 16,
    "num_denoising_steps": 3,
    "num_quantiles": 7,
    "num_actions": 20,
    "num_training_candidates": 5,
    "num_action_candidates": 3,
    "v_min": -20.0,
    "v_max": 20.0,
    # Everything that is rare in a run of full length happens in a short one.
    "reset_env_steps": [20],
    "estimate_every": 10,
    "average_from": 2,
    "decay_env_steps": 30,
}


def small(settings):
    """The settings with small networks, short chains and short intervals."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            settings = replace_nested(settings, {field.name: small_options(value)})
        elif field.name in ("v_min", "v_max"):
            settings = dataclasses.replace(settings, v_min=-20.0, v_max=20.0)
        elif field.name in _SMALL:
            settings = replace_nested(settings, {field.name: _SMALL[field.name]})
    return settings


def small_options(settings):
    """The same as options by name, as `dime.train` takes them."""
    return dataclasses.asdict(small(settings))
