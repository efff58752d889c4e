"""Room for the last observations of episodes, where next observations are kept once."""

from collections import deque

import numpy as np

from dime.training.replay import Replay
from dime.types import Transition


class EpisodeEnds:
    """Counts, as the program does, the ends of episodes that are in the ring of each seed."""

    def __init__(self, replay: Replay, num_stored: int):
        assert replay.end is not None
        newest, self._capacity = num_stored - 1, replay.capacity
        self._numbers: list[deque[int]] = []
        for end in np.asarray(replay.end):
            rows = np.flatnonzero(end >= 0)
            numbers = newest - (newest - rows) % self._capacity
            self._numbers.append(deque(sorted(numbers.tolist())))
        self._expected: np.ndarray | None = None

    def add(self, number: int, transition: Transition) -> int:
        """Transition `number` of every seed comes; returns the most ends that a ring then holds."""
        obs = np.asarray(transition.obs)
        # Not known after a resume: then as if an episode had ended, which asks for too much room.
        ended = np.ones(len(obs), bool)
        if self._expected is not None:
            ended = (obs != self._expected).any(axis=1)
        self._expected = np.asarray(transition.next_obs)
        for numbers, has_ended in zip(self._numbers, ended, strict=True):
            if has_ended and number > 0:
                numbers.append(number - 1)
            while numbers and numbers[0] <= number - self._capacity:
                numbers.popleft()
        return max(map(len, self._numbers))

    def keep(self, kept: np.ndarray) -> None:
        """Only the seeds at these places go on."""
        self._numbers = [self._numbers[index] for index in kept]
        if self._expected is not None:
            self._expected = self._expected[kept]
