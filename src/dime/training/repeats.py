"""Whether episodes follow from their seeds and actions, as resume and evaluations assume."""

import random

import numpy as np

from dime.envs.environment import Environment

KEEPS_STATE = (
    "the same seed and actions did not give the same episode again: it keeps state between episodes"
)
SHARES_RANDOMNESS = "it draws from random numbers that all environments of a process share"
NOT_TRIED = "it failed when its episodes were to be repeated as a trial"

_NUM_STEPS = 5
_SEED, _ANOTHER_SEED = 20_011, 20_021
_REMEDIES = {
    KEEPS_STATE: "Make reset(seed=...) rebuild whatever an episode changes, also the statistics of "
    "a wrapper, and draw everything from self.np_random. Evaluations use new environments.",
    SHARES_RANDOMNESS: "--env-process gives each environment its own; better, draw everything from "
    "self.np_random.",
}


def why_not_repeatable(env: Environment) -> str | None:
    """One of the reasons above; None where a few steps say nothing against it.

    The trial resets before an episode ends, which some environments refuse: that is no failure.
    """
    python, numpy = random.getstate(), np.random.get_state()
    try:
        first = _rollout(env, _SEED)
        _rollout(env, _ANOTHER_SEED)
        if _rollout(env, _SEED) != first:
            return KEEPS_STATE
        return None if _rollout(env, _SEED, others_draw=True) == first else SHARES_RANDOMNESS
    except Exception:  # whatever a user's environment raises
        return NOT_TRIED
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def repeat_warning(name: str, reason: str) -> str:
    """What to say of an environment that does not repeat its episodes."""
    if reason == NOT_TRIED:
        return f"note: {name}: {reason}; a resumed run may differ from an uninterrupted one."
    return (
        f"warning: {name}: {reason}. A resumed run is therefore approximate: it differs from an "
        f"uninterrupted one. {_REMEDIES[reason]}"
    )


def _rollout(env: Environment, seed: int, others_draw: bool = False) -> list[tuple[bytes, float]]:
    """The observations and rewards of a few random steps."""
    actions = np.random.default_rng(0)
    seen = [(env.reset(seed).tobytes(), 0.0)]
    for _ in range(_NUM_STEPS):
        if others_draw:
            random.random()
            np.random.random()
        result = env.step(actions.uniform(-1.0, 1.0, env.action_dim).astype(np.float32))
        seen.append((result.obs.tobytes(), result.reward))
        if result.terminated or result.truncated:
            break
    return seen
