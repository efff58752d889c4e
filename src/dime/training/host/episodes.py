"""The environment's side of a run: one stream of episodes per seed."""

import random
import traceback
from typing import NamedTuple

import numpy as np

from dime.envs.environment import Environment
from dime.errors import DimeError, describe
from dime.training.checkpoint import EpisodePosition
from dime.training.faults import Event

TRAINING, EVALUATION = range(2)


def episode_seed(seed: int, stream: int, *numbers: int) -> int:
    """The seed that an episode is reset with, below 2^31.

    Derived from the run's seed, the stream (training or evaluation) and the episode's number, so
    that any episode can be replayed from its seed and its actions alone.
    """
    return int(np.random.SeedSequence([seed, stream, *numbers]).generate_state(1)[0] >> 1)


class Observed(NamedTuple):
    """One step of the environment as the replay takes it: the fields of a `Transition`."""

    obs: np.ndarray
    action: np.ndarray
    reward: np.float32
    next_obs: np.ndarray
    terminated: bool


class EpisodeStream:
    """A seed's training environment, one episode after the other.

    If the environment raises, it is re-created and the episode is cut, up to `max_restarts` times
    (also counted in `restarts` by seed, as run.json has them); after that its error is raised, and
    the stream is as before. `obs` is the observation to act on next.
    """

    def __init__(
        self,
        env: Environment,
        seed: int,
        max_restarts: int,
        restarts: dict[str, int],
        bootstrap_at_time_limits: bool,
    ):
        self.env, self.seed = env, seed
        self.max_restarts, self.restarts = max_restarts, restarts
        self.warnings: list[Event] = []
        self.bootstrap_at_time_limits = bootstrap_at_time_limits
        self.last_return: float | None = None
        self.last_length: int | None = None
        self._begin(0, np.zeros(env.obs_dim, np.float32))

    def take_restart(self, error: Exception, cost: str = "the episode is cut") -> bool:
        """Counts one and warns of it; False if none is left, and nothing is counted.

        Also if the environment broke its own rules (a NaN, another shape): it would again, and
        its answer must not be hidden.
        """
        count = self.restarts.get(str(self.seed), 0)
        if isinstance(error, DimeError) or count >= self.max_restarts:
            return False
        self.restarts[str(self.seed)] = count + 1
        text = (
            f"warning: {self.env.name} raised {describe(error).rstrip('.')}. It is re-created for "
            f"seed {self.seed} ({count + 1} of {self.max_restarts} times), and {cost}.\n"
        )
        self.warnings.append(text + "".join(traceback.format_exception(error)))
        return True

    def fetch_warnings(self) -> list[Event]:
        """Those since the last call."""
        fetched, self.warnings = self.warnings, []
        return fetched

    def begin(self) -> None:
        """Resets the environment for the episode `self.number`."""
        self._begin(*self._reset(self.number))

    def _begin(self, number: int, obs: np.ndarray) -> None:
        self.number, self.obs = number, obs
        self.actions: list[np.ndarray] = []
        self.episode_return = 0.0

    def _reset(self, number: int, error: Exception | None = None) -> tuple[int, np.ndarray]:
        """The number and the first observation of an episode, a later one if a reset fails.

        After an `error` the environment is re-created first.
        """
        while True:
            if error is not None and not self.take_restart(error):
                raise error
            try:
                if error is not None:
                    self.env.rebuild()
                return number, self.env.reset(episode_seed(self.seed, TRAINING, number))
            except Exception as another:  # whatever a user's environment raises
                error, number = another, number + 1

    def step(self, action: np.ndarray) -> Observed:
        """Takes a step; begins the next episode if this one ends.

        `next_obs` of the result is the true successor, also at the end of an episode. If the
        environment was re-created, the action is taken in the new episode: one transition per step.
        """
        while True:
            try:
                result = self.env.step(action)
                break
            except Exception as error:  # whatever a user's environment raises
                self._begin(*self._reset(self.number + 1, error))
        obs, ended = self.obs, result.terminated or result.truncated
        next_episode = self._reset(self.number + 1) if ended else None
        self.actions.append(action)
        self.episode_return += result.reward
        self.obs = result.obs
        if next_episode is not None:
            self.last_return, self.last_length = self.episode_return, len(self.actions)
            self._begin(*next_episode)
        reward = np.float32(result.reward)
        terminated = result.terminated or (ended and not self.bootstrap_at_time_limits)
        return Observed(obs, action, reward, result.obs, terminated)

    def position(self) -> EpisodePosition:
        """Where the stream is, except for the actions of the episode in progress."""
        return EpisodePosition(self.number, self.episode_return, self.last_return, self.last_length)

    def restore(self, position: EpisodePosition, actions: np.ndarray, obs: np.ndarray) -> bool:
        """Replays the episode in progress; False if the environment did not follow.

        Physics engines keep more than their visible state, so the episode is stepped again from its
        seed. If that ends elsewhere than at `obs`, it is cut and the next one begins.
        """
        self.last_return, self.last_length = position.last_return, position.last_length
        error: Exception | None = None
        try:
            first = self.env.reset(episode_seed(self.seed, TRAINING, position.number))
            self._begin(position.number, first)
            ended = False
            while not ended and len(self.actions) < len(actions):
                action = actions[len(self.actions)]
                result = self.env.step(action)
                self.actions.append(action)
                self.obs = result.obs
                ended = result.terminated or result.truncated
        except Exception as raised:  # whatever a user's environment raises
            error = raised
        self.episode_return = position.episode_return
        if error is None and len(self.actions) == len(actions) and np.array_equal(self.obs, obs):
            return True
        self._begin(*self._reset(position.number + 1, error))
        return False


KEEPS_STATE = (
    "the same seed and actions did not give the same episode again: it keeps state between "
    "episodes, or draws from random numbers that other environments share"
)
NOT_TRIED = "it failed while its episodes were repeated as a trial"

_NUM_STEPS = 5
_SEED, _ANOTHER_SEED = 20_011, 20_021


def why_not_repeatable(env: Environment) -> str | None:
    """One of the reasons above; None if a few steps say nothing against it.

    The trial resets before an episode ends, which some environments refuse: that is no failure.
    """
    python, numpy = random.getstate(), np.random.get_state()
    try:
        first = _rollout(env, _SEED)
        _rollout(env, _ANOTHER_SEED)
        return None if _rollout(env, _SEED, others_draw=True) == first else KEEPS_STATE
    except Exception:  # whatever a user's environment raises
        return NOT_TRIED
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def repeat_warning(name: str, reason: str) -> str:
    """What to say of an environment that does not repeat its episodes."""
    return (
        f"warning: {name}: {reason}. A resumed run may therefore differ from an uninterrupted one "
        "(docs/environments.md)."
    )


def _rollout(env: Environment, seed: int, others_draw: bool = False) -> list[tuple[bytes, float]]:
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
