"""Evaluations: whole episodes in a named action mode, in separate environments."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

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
        f"never ends in training; evaluations cut it at {MAX_EPISODE_STEPS:,} steps. Give one: "
        "--env-kwargs max_episode_steps=1000 (ids of Gymnasium's registry), or wrap it in "
        "gymnasium.wrappers.TimeLimit."
    )


class EpisodeResult(NamedTuple):
    """One episode of an evaluation; success is None if the environment does not report it."""

    seed: int
    episode_return: float
    length: int
    success_any: bool | None
    success_last: bool | None


def evaluation_seeds(seed: int, env_step: int, num_episodes: int) -> list[int]:
    """The episodes' seeds, the same for every mode."""
    return [episode_seed(seed, EVALUATION, env_step, i) for i in range(num_episodes)]


class EpisodeError(Exception):
    """An environment failed in an episode of the agent at place `agent`; `cause` is its error."""

    def __init__(self, agent: int, cause: Exception):
        super().__init__(str(cause))
        self.agent, self.cause = agent, cause


class EnvironmentPool:
    """Environments for evaluations, made when they are first needed.

    `unrepeatable` says why their episodes do not follow from their seeds, once that was tried.
    """

    def __init__(self, make: Callable[[], Environment], training: list[Environment]):
        self._make = make
        self._training = training
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
            if any(
                env.env.unwrapped is other.env.unwrapped for other in self._training + self._made
            ):
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
    """An episode in progress."""

    def __init__(self, env: Environment, seed: int):
        self.env = env
        self.seed = seed
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


class Evaluation(Protocol):
    """Whole episodes in progress, of every agent."""

    @property
    def running(self) -> bool:
        """Whether an episode has not ended yet."""
        ...

    def advance(self) -> None:
        """Takes some steps of the episodes that run. Raises `EpisodeError`."""

    def results(self) -> list[list[EpisodeResult]]:
        """Of all episodes, by agent. Raises `EpisodeError`."""
        ...


class Episodes:
    """Episodes side by side, one call of `actions` per step for all of them.

    `seeds` by agent, then by episode; one environment for each. Raises `EpisodeError`.
    """

    def __init__(self, environments: list[Environment], seeds: list[list[int]], actions: Actions):
        spare = iter(environments)
        self._actions = actions
        self._step = 0
        self._groups = [
            [_guarded(agent, _Episode, next(spare), seed) for seed in group]
            for agent, group in enumerate(seeds)
        ]

    @property
    def running(self) -> bool:
        """Whether an episode has not ended yet."""
        return any(episode.running for group in self._groups for episode in group)

    def advance(self) -> None:
        """Takes one step of every episode that runs."""
        obs = np.stack([[episode.obs for episode in group] for group in self._groups])
        actions = self._actions(obs, self._step)
        taken = [
            (agent, episode, action)
            for agent, (group, row) in enumerate(zip(self._groups, actions, strict=True))
            for episode, action in zip(group, row, strict=True)
            if episode.running
        ]
        for _, episode, action in taken:
            episode.env.start_step(action)
        for agent, episode, action in taken:
            _guarded(agent, episode.step, action)
        self._step += 1

    def results(self) -> list[list[EpisodeResult]]:
        """Of all episodes, by agent."""
        return [[episode.result() for episode in group] for group in self._groups]


def run_episodes(
    environments: list[Environment], seeds: list[list[int]], actions: Actions
) -> list[list[EpisodeResult]]:
    """Plays `Episodes` to their ends. Raises `EpisodeError`."""
    episodes = Episodes(environments, seeds, actions)
    while episodes.running:
        episodes.advance()
    return episodes.results()


def _guarded(agent: int, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:  # whatever a user's environment raises
        raise EpisodeError(agent, error) from error


def summary(results: list[EpisodeResult]) -> dict[str, Any]:
    """The part of an evaluation's record that the episodes make."""
    return {
        "returns": [result.episode_return for result in results],
        "lengths": [result.length for result in results],
        "success_any": _reported([result.success_any for result in results]),
        "success_last": _reported([result.success_last for result in results]),
        "episode_seeds": [result.seed for result in results],
    }


def _reported(successes: list[bool | None]) -> list[bool | None] | None:
    return None if all(success is None for success in successes) else successes
