"""A trained policy as an object: observation in, action out, in the environment's own units."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dime.algorithms.registry import find_algorithm
from dime.envs.spaces import Spaces
from dime.errors import DimeError, choose
from dime.training.checkpoint import Checkpoint, DamagedError, from_arrays
from dime.training.checkpoint.writer import CheckpointFolder
from dime.training.config import RunConfig
from dime.training.host.programs import counters, initialise, matmul_precision, seed_keys
from dime.training.run_directory import RunDirectory
from dime.types import Agent, AlgorithmState, EnvSpec


class Restored(NamedTuple):
    """What a checkpoint holds of the agents; the state leads with the axis of `seeds`."""

    config: RunConfig
    agent: Agent
    spaces: Spaces
    seeds: list[int]
    state: AlgorithmState
    checkpoint: Checkpoint

    def choose_mode(self, mode: str | None) -> str:
        """The evaluation mode, by default the algorithm's official one.

        Raises `DimeError` where the algorithm has no such mode.
        """
        algorithm = find_algorithm(self.config.algorithm)
        wanted = algorithm.official_mode if mode is None else mode.replace("-", "_")
        return choose("mode", wanted, algorithm.modes)

    def place_of(self, seed: int | None, run_dir: Path) -> int:
        """Where a seed stands on the axis of seeds; the first one where it is None.

        Raises `DimeError` where the checkpoint of `run_dir` has no such seed.
        """
        if seed is None:
            return 0
        if seed not in self.seeds:
            raise DimeError(
                f"{run_dir} has no seed {seed} in its checkpoint; there are {self.seeds}. A seed "
                "that failed is kept under failures/."
            )
        return self.seeds.index(seed)


def restore_agents(run_dir: Path, checkpoint: Path | None = None) -> Restored:
    """The agents of a run's newest checkpoint, or of the one named; never silently of an older one.

    Raises:
        DimeError: not a run, no checkpoint yet, or a damaged one.
    """
    directory = RunDirectory.open(run_dir)
    config = RunConfig.from_json(directory.config())
    loaded = _load(directory.checkpoints, run_dir, checkpoint)
    spaces = Spaces.from_json(loaded.run.spaces)
    spec = EnvSpec(spaces.obs_dim, spaces.action_dim, config.training.replay_capacity)
    agent = find_algorithm(config.algorithm).make(config.settings, spec)
    seeds = loaded.run.seeds
    shape = jax.eval_shape(partial(initialise, agent), seed_keys(tuple(seeds)))
    state = jax.tree.map(jnp.asarray, from_arrays(loaded.state, shape))
    return Restored(config, agent, spaces, seeds, state, loaded)


def _load(folder: CheckpointFolder, run_dir: Path, checkpoint: Path | None) -> Checkpoint:
    """The checkpoint named, or the newest one; refuses a damaged one and names the others."""
    there = folder.steps()
    if checkpoint is None and not there:
        raise DimeError(f"{run_dir} has no checkpoint yet.")
    chosen = there[0] if checkpoint is None else checkpoint
    try:
        return folder.load(chosen, replay=False)
    except DamagedError as error:
        others = [str(path) for path in there if path.absolute() != chosen.absolute()]
        remedy = (
            "Name another checkpoint with --checkpoint DIR (in Python checkpoint=DIR). There are: "
            + ", ".join(others)
            if others
            else "There is no other checkpoint"
        )
        raise DimeError(f"{error} {remedy}.") from error


def numbered_action(agent: Agent, mode: str) -> Callable[..., Any]:
    """`(state, obs, key, call, at) -> action`: each call has random numbers of its own."""
    act = agent.act[mode]

    def numbered(state: AlgorithmState, obs: Any, key: Any, call: Any, at: Any):
        return act(state, obs, jax.random.fold_in(key, call), at)

    return numbered


class Policy:
    """A trained agent in one action mode.

    Attributes:
        spaces: the observations it takes and the actions it gives.
        mode: how actions are chosen.
        seed: which of the run's seeds it is.
        env_step: how long it was trained.
    """

    def __init__(self, restored: Restored, index: int, mode: str, noise_seed: int):
        self.spaces = restored.spaces
        self.mode = mode
        self.seed = restored.seeds[index]
        self.env_step = restored.checkpoint.env_step
        self._training = restored.config.training
        self._state = jax.tree.map(lambda leaf: leaf[index], restored.state)
        self._at = counters(restored.checkpoint.env_step, restored.checkpoint.run.updates)
        self._key = jax.random.key(noise_seed)
        self._calls = 0
        self._act = jax.jit(numbered_action(restored.agent, mode))

    def __call__(self, obs: Any) -> np.ndarray:
        """Actions for one observation or a batch of them.

        Args:
            obs: an observation of the environment's own space, or a batch: each leaf with the
                same leading axes.

        Returns:
            Actions in the environment's own units, shape and dtype, with those leading axes.

        Raises:
            DimeError: not an observation of that space, or one that is not finite.
        """
        flat = self.spaces.flatten(obs)
        if not np.isfinite(flat).all():
            raise DimeError("The observation has entries that are NaN or infinite (in float32).")
        with matmul_precision(self._training, jax.default_backend()):
            action = self._act(self._state, flat, self._key, np.uint32(self._calls), self._at)
        self._calls += 1
        return self.spaces.to_env_action(np.asarray(action))


def load_policy(
    run_dir: str | Path,
    mode: str | None = None,
    *,
    seed: int | None = None,
    checkpoint: str | Path | None = None,
    noise_seed: int = 0,
) -> Policy:
    """The policy that a run has trained, from its newest checkpoint.

    Args:
        run_dir: the run's folder.
        mode: `stochastic`, `deterministic`, `best_of_n` or another of the algorithm's; by default
            its official one (`dime list algorithms`).
        seed: which of the run's seeds; the first one by default.
        checkpoint: another checkpoint's folder.
        noise_seed: seed of the policy's own random numbers.

    Returns:
        An object: `policy(obs) -> action`, for one observation or a batch.

    Raises:
        DimeError: not a run, no checkpoint yet, a damaged one (name another one then), an unknown
            mode or seed.

    >>> import tempfile, dime
    >>> folder = tempfile.mkdtemp() + "/run"
    >>> _ = dime.train("dime/MultiGoal-v0", preset="laptop", num_env_steps=60,
    ...     num_random_steps=50, run_dir=folder, progress=False)
    >>> policy = load_policy(folder, mode="deterministic")
    >>> env = dime.make_env("dime/MultiGoal-v0")
    >>> obs, info = env.reset(seed=0)
    >>> policy(obs).shape, policy(np.stack([obs, obs, obs])).shape
    ((2,), (3, 2))
    """
    restored = restore_agents(Path(run_dir), Path(checkpoint) if checkpoint else None)
    mode = restored.choose_mode(mode)
    return Policy(restored, restored.place_of(seed, Path(run_dir)), mode, noise_seed)
