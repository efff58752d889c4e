"""A trained policy as an object: observation in, action out, in the environment's own units."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dime.algorithms.registry import find_algorithm
from dime.envs.spaces import Spaces
from dime.errors import DimeError, choose, require
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
        """The evaluation mode, by default the official one; `DimeError` if there is none such."""
        algorithm = find_algorithm(self.config.algorithm)
        wanted = algorithm.official_mode if mode is None else mode.replace("-", "_")
        return choose("mode", wanted, algorithm.modes)

    def place_of(self, seed: int | None, run_dir: Path) -> int:
        """A seed's index on the axis of seeds, 0 for None; `DimeError` if `run_dir` lacks it."""
        seed = self.seeds[0] if seed is None else seed
        known = f"{run_dir} has no seed {seed} in its checkpoint; there are {self.seeds}."
        require(seed in self.seeds, known)
        return self.seeds.index(seed)


def restore_agents(run_dir: Path, checkpoint: Path | None = None) -> Restored:
    """The agents of a run's newest checkpoint, or of the one named; never silently of an older one.

    Raises:
        DimeError: not a run, no checkpoint yet, or a damaged one (the others are named).
    """
    directory = RunDirectory.open(run_dir)
    config = directory.run_config()
    loaded = _load(directory.checkpoints, run_dir, checkpoint)
    spaces = loaded.run.spaces
    spec = EnvSpec(spaces.obs_dim, spaces.action_dim, config.training.replay_capacity)
    agent = find_algorithm(config.algorithm).make(config.settings, spec)
    seeds = loaded.run.seeds
    shape = jax.eval_shape(partial(initialise, agent), seed_keys(tuple(seeds)))
    state = jax.tree.map(jnp.asarray, from_arrays(loaded.state, shape))
    return Restored(config, agent, spaces, seeds, state, loaded)


def _load(folder: CheckpointFolder, run_dir: Path, checkpoint: Path | None) -> Checkpoint:
    there = folder.steps()
    require(bool(checkpoint or there), f"{run_dir} has no checkpoint yet.")
    chosen = there[0] if checkpoint is None else checkpoint
    try:
        return folder.load(chosen, replay=False)
    except DamagedError as error:
        others = ", ".join(str(each) for each in there if each.absolute() != chosen.absolute())
        remedy = f"Name another with --checkpoint DIR (Python: checkpoint=DIR). There are: {others}"
        raise DimeError(f"{error} {remedy if others else 'There is no other one'}.") from error


class Policy:
    """A trained agent in one action mode.

    Attributes:
        spaces: the observations it takes and the actions it gives.
        mode, seed, env_step: how it acts, which of the run's seeds it is, how long it was trained.
        noise_seed: seed of its random numbers.
        restored, state: the run and checkpoint that it comes from; this seed's algorithm state.
    """

    def __init__(self, restored: Restored, index: int, mode: str, noise_seed: int):
        self.restored = restored
        self.spaces = restored.spaces
        self.mode = mode
        self.seed = restored.seeds[index]
        self.env_step = restored.checkpoint.env_step
        self.noise_seed = noise_seed
        self.state = jax.tree.map(lambda leaf: leaf[index], restored.state)
        self._counters = counters(self.env_step, restored.checkpoint.run.updates)
        self._calls = 0
        self._compiled = jax.jit(self.unit_action)

    def unit_action(self, state: AlgorithmState, obs: Any, key: Any, call: Any) -> jax.Array:
        """Actions in [-1, 1] as a function of arrays; every call has its own random numbers."""
        act = self.restored.agent.act[self.mode]
        return act(state, obs, jax.random.fold_in(key, call), self._counters)

    def act(self, flat: np.ndarray, call: int) -> np.ndarray:
        """Actions in the environment's units for flat observations, in the `call`-th call."""
        key = jax.random.key(self.noise_seed)
        action = self._compiled(self.state, flat, key, np.uint32(call))
        return self.spaces.to_env_action(np.asarray(action))

    def observations(self, rows: Any) -> jax.ShapeDtypeStruct:
        """What `unit_action` takes; `rows` may be a symbolic dimension."""
        return jax.ShapeDtypeStruct((rows, self.spaces.obs_dim), np.float32)

    def __call__(self, obs: Any) -> np.ndarray:
        """Actions for one observation or a batch of them.

        An observation is one of the environment's own space; in a batch each leaf has the same
        leading axes. Actions have them too, in the environment's own units, shape and dtype.

        Raises:
            DimeError: not an observation of that space, or one that is not finite.
        """
        flat = self.spaces.flatten(obs)
        require(bool(np.isfinite(flat).all()), "The observation is NaN or infinite (in float32).")
        with matmul_precision(self.restored.config.training, jax.default_backend()):
            action = self.act(flat, self._calls)
        self._calls += 1
        return action


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
        noise_seed: seed of the policy's random numbers.

    Returns:
        An object: `policy(obs) -> action`, for one observation or a batch.

    Raises:
        DimeError: not a run, no checkpoint yet, a damaged one (then name another), an unknown mode
            or seed.

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
