"""Evaluations: whole episodes in a named action mode, in separate environments."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from dime.envs.environment import Environment
from dime.errors import DimeError
from dime.training.host.episodes import (
    EVALUATION,
    KEEPS_STATE,
    NOT_TRIED,
    episode_seed,
    why_not_repeatable,
)

MAX_EPISODE_STEPS = 10_000
"""An episode that does not end earlier is cut here."""

Actions = Callable[[np.ndarray, int], np.ndarray]
"""Observations (seeds, episodes, obs) and the step in the episodes to actions in [-1, 1]."""


def time_limit_warning(env: Environment) -> str | None:
    """What to say before a run if the environment declares no time limit."""
    if env.max_episode_steps is not None:
        return None
    return (
        f"warning: {env.name} declares no time limit. An episode that does not end by itself "
        f"never ends in training; evaluations cut it at {MAX_EPISODE_STEPS:,} steps. Wrap it in "
        "gymnasium.wrappers.TimeLimit, or give --env-kwargs max_episode_steps=1000."
    )


class EpisodeResult(NamedTuple):
    """One episode of an evaluation; success is None if the environment does not report it."""

    seed: int
    episode_return: float
    length: int
    success_any: bool | None
    success_last: bool | None


Evaluation = Iterator[list[list[EpisodeResult]] | None]
"""Plays episodes: None before each step, or each few steps, then the results by agent.

Raises `EpisodeError`.
"""


def evaluation_seeds(seed: int, env_step: int, num_episodes: int) -> list[int]:
    """The episodes' seeds, the same for every mode."""
    return [episode_seed(seed, EVALUATION, env_step, i) for i in range(num_episodes)]


class EpisodeError(Exception):
    """An environment failed in an episode of the agent at place `agent`; `cause` is its error."""

    def __init__(self, agent: int, cause: Exception):
        super().__init__(str(cause))
        self.agent, self.cause = agent, cause


class EnvironmentPool:
    """Environments for evaluations, made when they are first needed."""

    def __init__(self, make: Callable[[], Environment], training: list[Environment]):
        self._make, self._training = make, training
        self._made: list[Environment] = []
        self._tried = False
        self.unrepeatable: str | None = None

    def take(self, num_agents: int, count: int) -> list[Environment]:
        """`count` for each agent, none of which is one that trains.

        Those that keep state between episodes are new each time, as those of `dime evaluate` are.

        Raises:
            EpisodeError: one cannot be made.
            DimeError: what makes environments returns one a second time, or one of other spaces.
        """
        if self.unrepeatable == KEEPS_STATE:
            self.close()
        self._make_up_to(num_agents * count, count)
        if not self._tried:
            self.unrepeatable = why_not_repeatable(self._made[0])
            self._tried = True
            if self.unrepeatable == NOT_TRIED:
                self.close()
            return self.take(num_agents, count)
        return self._made[: num_agents * count]

    def _make_up_to(self, number: int, count: int) -> None:
        while len(self._made) < number:
            env = _guarded(len(self._made) // count, self._make)
            env.spaces.refuse_if_other(self._training[0].spaces, "the environment that trains")
            others = self._training + self._made
            if any(env.env.unwrapped is other.env.unwrapped for other in others):
                raise DimeError(
                    f"{env.name} was returned twice by what makes environments. A run needs "
                    "several, for training and for evaluation: return a new one at each call."
                )
            self._made.append(env)

    def close(self) -> None:
        """Closes all of them; the next call makes new ones."""
        closing, self._made = self._made, []
        for env in closing:
            env.close()


class _Episode:
    def __init__(self, env: Environment, seed: int):
        self.env, self.seed = env, seed
        self.obs = env.reset(seed)
        self.rewards: list[float] = []
        self.successes: list[bool | None] = []
        self.running = True

    def step(self, action: np.ndarray) -> None:
        result = self.env.step(action)
        self.obs = result.obs
        self.rewards.append(result.reward)
        self.successes.append(result.success)
        ended = result.terminated or result.truncated or len(self.rewards) >= MAX_EPISODE_STEPS
        self.running = not ended

    def result(self) -> EpisodeResult:
        reported = [success for success in self.successes if success is not None]
        return EpisodeResult(
            seed=self.seed,
            episode_return=float(np.sum(self.rewards)),
            length=len(self.rewards),
            success_any=any(reported) if reported else None,
            success_last=self.successes[-1],
        )


def play_episodes(
    environments: list[Environment], seeds: list[list[int]], actions: Actions
) -> Evaluation:
    """Plays episodes side by side, with one call of `actions` per step for all of them.

    `seeds` by agent, then by episode; one environment for each.
    """
    spare = iter(environments)
    groups = [
        [_guarded(agent, _Episode, next(spare), seed) for seed in group]
        for agent, group in enumerate(seeds)
    ]
    for step in itertools.count():
        running = [
            (agent, place, episode)
            for agent, group in enumerate(groups)
            for place, episode in enumerate(group)
            if episode.running
        ]
        if not running:
            break
        yield None
        chosen = actions(np.stack([[each.obs for each in group] for group in groups]), step)
        for agent, place, episode in running:
            episode.env.start_step(chosen[agent, place])
        for agent, place, episode in running:
            _guarded(agent, episode.step, chosen[agent, place])
    yield [[episode.result() for episode in group] for group in groups]


def run_episodes(
    environments: list[Environment], seeds: list[list[int]], actions: Actions
) -> list[list[EpisodeResult]]:
    """The results of `play_episodes`."""
    *_, results = play_episodes(environments, seeds, actions)
    assert results is not None
    return results


def _guarded(agent: int, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:  # whatever a user's environment raises
        raise EpisodeError(agent, error) from error


def summary(results: list[EpisodeResult]) -> dict[str, Any]:
    """The part of an evaluation's record that the episodes make."""
    seeds, returns, lengths, *successes = map(list, zip(*results, strict=True))
    success_any, success_last = (None if set(each) == {None} else each for each in successes)
    return {
        "returns": returns,
        "lengths": lengths,
        "success_any": success_any,
        "success_last": success_last,
        "episode_seeds": seeds,
    }
