"""The environment's side of a run: one stream of episodes per seed."""

from typing import Any, NamedTuple

import numpy as np

from dime.envs.environment import Environment

TRAINING, EVALUATION = range(2)


def episode_seed(seed: int, stream: int, *numbers: int) -> int:
    """The seed that an episode is reset with, below 2^31.

    Derived from the run's seed, the stream (training or evaluation) and the episode's number, so
    that any episode can be replayed from its seed and its actions alone.
    """
    return int(np.random.SeedSequence([seed, stream, *numbers]).generate_state(1)[0] >> 1)


class Observed(NamedTuple):
    """One step of the environment as the replay takes it, and the observation to act on next."""

    obs: np.ndarray
    action: np.ndarray
    reward: np.float32
    next_obs: np.ndarray
    terminated: bool
    acting_obs: np.ndarray


class EpisodeStream:
    """A seed's training environment, one episode after the other."""

    def __init__(self, env: Environment, seed: int, bootstrap_at_time_limits: bool = True):
        self.env = env
        self.seed = seed
        self.bootstrap_at_time_limits = bootstrap_at_time_limits
        self.number = 0
        self.actions: list[np.ndarray] = []
        self.episode_return = 0.0
        self.last_return: float | None = None
        self.last_length: int | None = None
        self.obs = np.zeros(env.obs_dim, np.float32)

    def begin(self) -> None:
        """Resets the environment for the episode `self.number`."""
        self.obs = self._first_obs(self.number)
        self.actions = []
        self.episode_return = 0.0

    def _first_obs(self, number: int) -> np.ndarray:
        return self.env.reset(episode_seed(self.seed, TRAINING, number))

    def step(self, action: np.ndarray) -> Observed:
        """Takes a step; begins the next episode where this one ends.

        `next_obs` of the result is the true successor, also where the episode ended. Where the
        environment raises, here or at the next reset, the stream stays as it was before the step.
        """
        obs = self.obs
        result = self.env.step(action)
        ended = result.terminated or result.truncated
        self.obs = self._first_obs(self.number + 1) if ended else result.obs
        self.actions.append(action)
        self.episode_return += result.reward
        if ended:
            self.last_return, self.last_length = self.episode_return, len(self.actions)
            self.number += 1
            self.actions, self.episode_return = [], 0.0
        reward = np.float32(result.reward)
        terminated = result.terminated or (ended and not self.bootstrap_at_time_limits)
        return Observed(obs, action, reward, result.obs, terminated, self.obs)

    def to_json(self) -> dict[str, Any]:
        """Where the stream is, but for the actions of the episode in progress."""
        return {
            "number": self.number,
            "episode_return": self.episode_return,
            "last_return": self.last_return,
            "last_length": self.last_length,
        }

    def restore(self, position: dict[str, Any], actions: np.ndarray, obs: np.ndarray) -> bool:
        """Replays the episode in progress; False where the environment did not follow.

        Physics engines keep more than their visible state (MuJoCo: a warm start), so the episode
        is stepped again from its seed. An environment that its seed does not determine ends up
        elsewhere than at `obs`; then the episode in progress is cut and the next one begins.
        """
        self.number = position["number"]
        self.last_return, self.last_length = position["last_return"], position["last_length"]
        self.begin()
        for action in actions:
            result = self.env.step(action)
            self.actions.append(action)
            self.obs = result.obs
            if result.terminated or result.truncated:
                break
        self.episode_return = position["episode_return"]
        if len(self.actions) == len(actions) and np.array_equal(self.obs, obs):
            return True
        self.number += 1
        self.begin()
        return False
