"""What a diffusion policy does, in numbers: its chains beside exp(Q / temperature), its bounds.

All densities are on the box of actions, [-1, 1] per dimension, cut into the same bins.
"""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from dime.algorithms.dime import DimeConfig, DimeState
from dime.deploy.evaluate import actions_of, environment_of
from dime.deploy.policy import Restored, restore_agents
from dime.envs.environment import Environment
from dime.envs.registry import make
from dime.errors import DimeError, require
from dime.policies.diffusion import DiffusionPolicy
from dime.training.config import EnvLike
from dime.training.host.evaluation import evaluation_seeds, run_episodes

NUM_BINS = {1: 100, 2: 40}
"""Per action dimension, on a line and on a plane."""
NUM_CHAINS = 16_384  # of each state that is drawn
NUM_POINTS = 1000  # of these, chains that are kept one by one
NUM_BOUND_CHAINS = 64  # of each state, for the mean of the entropy bound
MAX_BOUND_STATES = 200  # along the episode, for which it is measured


@dataclass(frozen=True)
class InspectOptions:
    """What of a policy is drawn, and in which formats."""

    checkpoint: str | Path | None = None
    """Another checkpoint's folder than the newest one."""
    num_states: int = 3
    """How many states, spread evenly over the episode."""
    plane: Iterable[int] | None = None
    """One action dimension or two; by default the first two, or the only one."""
    seed: int | None = None
    """Which of the run's seeds; the first one by default."""
    env: EnvLike | None = None
    """Needed if the run's environment was passed as an object: the same again."""
    figure_suffix: str = ".png"
    """Of the figures: .png, .svg or .pdf."""
    animation_suffix: str = ".gif"
    """Of the animation: .gif or .mp4."""


def bin_edges(dims: int) -> np.ndarray:
    """The ends of the bins of one action dimension, (bins + 1,), if `dims` are drawn."""
    return np.linspace(-1.0, 1.0, NUM_BINS[dims] + 1)


def bin_centres(dims: int) -> np.ndarray:
    """The middles of the bins, (bins,)."""
    return np.convolve(bin_edges(dims), [0.5, 0.5], "valid")


@eqx.filter_jit
def _draw(policy: DiffusionPolicy, obs: Float[Array, "*batch obs"], key: Key[Array, ""]) -> Any:
    chain = policy.draw(obs, key)
    return jnp.tanh(chain.latents), policy.weigh(chain).log_prob


def draw_chains(
    policy: DiffusionPolicy, obs: np.ndarray, num: int, key: Key[Array, ""]
) -> tuple[np.ndarray, np.ndarray]:
    """`num` chains for each observation: of (*batch, obs) the results have axes (num, *batch).

    Returns:
        (steps + 1, num, *batch, act), tanh of every latent, at last the actions; and (num, *batch),
        one-sample values of the bound on the log density, nats. Both as `policy.sample` has them.
    """
    repeated = jnp.broadcast_to(jnp.asarray(obs), (num, *obs.shape))
    actions, log_prob = _draw(policy, repeated, key)
    return np.asarray(actions), np.asarray(log_prob, np.float64)


def masses(actions: np.ndarray) -> np.ndarray:
    """The share of samples in each bin: of (..., samples, dims) in [-1, 1], it is (..., *bins)."""
    leading, dims = actions.shape[:-2], actions.shape[-1]
    edges = [bin_edges(dims)] * dims
    flat = actions.reshape(-1, *actions.shape[-2:])
    counts = [np.histogramdd(samples, edges)[0] for samples in flat]
    return np.reshape(counts, (*leading, *[NUM_BINS[dims]] * dims)) / actions.shape[-2]


def prior_masses(prior_std: float) -> np.ndarray:
    """The probability of each bin of a line under tanh of N(0, prior_std^2), in closed form."""
    prior = NormalDist(0.0, prior_std)
    with np.errstate(divide="ignore"):  # the ends of the box are at infinity
        return np.diff([prior.cdf(end) for end in np.arctanh(bin_edges(1))])


def boltzmann(values: np.ndarray, temperature: float) -> np.ndarray:
    """exp(values / temperature) on the bins' centres, normalised: its integral over them is one."""
    density = np.exp((values - values.max()) / temperature)
    return density / (density.sum() * (2.0 / len(values)) ** values.ndim)


def levels_enclosing(density: np.ndarray, shares: tuple[float, ...]) -> list[float]:
    """Levels of a density whose regions above hold these shares of its mass, lowest level first.

    Equal levels are returned once, and none that the whole box is above.
    """
    falling = np.sort(density, axis=None)[::-1]
    held = np.cumsum(falling) / falling.sum()
    levels = {float(falling[min(np.searchsorted(held, s), falling.size - 1)]) for s in shares}
    return sorted(level for level in levels if falling[-1] < level < falling[0])


class StateView(NamedTuple):
    """What is drawn of one state."""

    env_step: int  # of the episode
    mass: np.ndarray
    """(steps + 1, *bins), the share of chains in each bin of the plane, by denoising step."""
    points: np.ndarray  # (steps + 1, NUM_POINTS, dims), some of the chains
    density: np.ndarray
    """(*bins), exp(Q / temperature) with the other dimensions at their mean, normalised."""

    @property
    def distance(self) -> float:
        """Total variation between the actions and the density, 0 to 1."""
        return 0.5 * float(np.abs(self.mass[-1] - self.density / self.density.sum()).sum())


class PolicyView(NamedTuple):
    """Everything that the pictures of one policy show."""

    source: str  # run, seed and env step, in words
    plane: tuple[int, ...]  # the action dimensions that are drawn, one or two
    action_dim: int
    temperature: float  # return per nat
    states: list[StateView]
    bounds: tuple[np.ndarray, np.ndarray, np.ndarray]
    """(states,): env step, mean of the entropy bound over chains, and its standard error."""
    target_bound: float | None
    """What the temperature drives the entropy bound to; None if it is fixed."""
    step_sizes: np.ndarray  # (steps, act), integrated diffusion in latent units squared
    diffusion_scale: np.ndarray  # (act,), learnt; `initial_scale` before training
    initial_scale: float
    obs: np.ndarray  # (env steps, obs) of an episode in stochastic mode
    episode_return: float
    prior_std: float  # in latent units


class DimeAgent(NamedTuple):
    """One seed's agent of a run of DIME."""

    config: DimeConfig
    state: Any

    @classmethod
    def of(cls, restored: Restored, index: int, run_dir: Path) -> "DimeAgent":
        """The agent at place `index`; raises `DimeError` if the algorithm is not DIME."""
        config = restored.config.settings
        if not (isinstance(config, DimeConfig) and isinstance(restored.state, DimeState)):
            raise DimeError(
                f"{run_dir} is a run of {restored.config.algorithm}, whose policy has no denoising "
                "chain with a bound on its entropy, or no temperature. Pictures of a policy are "
                "drawn of runs of dime and dime-gb."
            )
        return cls(config, jax.tree.map(lambda leaf: leaf[index], restored.state))

    @property
    def temperature(self) -> float:
        """Return per nat."""
        return float(self.state.temperature.value)

    def density(self, obs: np.ndarray, mean: np.ndarray, plane: tuple[int, ...]) -> np.ndarray:
        """exp(Q / temperature) on the bins of the plane, other dimensions at `mean`, normalised."""
        axes = np.meshgrid(*[bin_centres(len(plane))] * len(plane), indexing="ij")
        action = np.broadcast_to(mean, (*axes[0].shape, len(mean))).astype(np.float32)
        for dimension, values in zip(plane, axes, strict=True):
            action[..., dimension] = values
        critics = self.state.critics
        everywhere = jnp.broadcast_to(jnp.asarray(obs), (*axes[0].shape, len(obs)))
        outputs = critics.outputs(everywhere, jnp.asarray(action))
        value = self.config.critic.make_head().combined_value(outputs)
        return boltzmann(np.asarray(value, np.float64), self.temperature)


def view_policy(run_dir: str | Path, options: InspectOptions) -> PolicyView:
    """Plays an episode of a run's policy and measures what `inspect_policy` draws."""
    folder = Path(run_dir)
    num_states, checkpoint = options.num_states, options.checkpoint
    require(num_states >= 1, f"num_states is {num_states}; it must be at least 1.")
    restored = restore_agents(folder, Path(checkpoint) if checkpoint else None)
    config, at = restored.config, restored.checkpoint
    index = restored.place_of(options.seed, folder)
    agent = DimeAgent.of(restored, index, folder)
    action_dim = restored.spaces.action_dim
    dims = tuple(range(min(2, action_dim)) if options.plane is None else options.plane)
    require(
        0 < len(dims) == len(set(dims)) <= 2 and set(dims) <= set(range(action_dim)),
        f"plane is {dims}; it must be one or two different action dimensions of 0 to "
        f"{action_dim - 1}.",
    )
    source = environment_of(restored, options.env, folder)
    with closing(make(source, config.env_kwargs)) as environment:
        environment.spaces.refuse_if_other(restored.spaces, str(at.path))
        obs, episode_return = _play(restored, index, environment)
    policy = agent.state.policy.module
    return PolicyView(
        source=f"{folder.resolve().name}: {config.algorithm} on {config.env}, "
        f"seed {restored.seeds[index]}, after {at.env_step} env steps",
        plane=dims,
        action_dim=action_dim,
        temperature=agent.temperature,
        states=[_view(agent, obs, step, dims) for step in _spread(len(obs), num_states)],
        bounds=_bounds(agent, obs),
        target_bound=_target_bound(agent.config, action_dim),
        step_sizes=np.asarray(policy.step_sizes(), np.float64),
        diffusion_scale=np.asarray(policy.diffusion_scale(), np.float64),
        initial_scale=agent.config.policy.initial_step_scale,
        obs=obs,
        episode_return=episode_return,
        prior_std=agent.config.policy.prior_std,
    )


def _play(restored: Restored, index: int, environment: Environment) -> tuple[np.ndarray, float]:
    """The first episode of the seed's evaluation at this checkpoint, in stochastic mode."""
    act = actions_of(restored, "stochastic")
    visited: list[np.ndarray] = []

    def choose_action(obs: np.ndarray, step: int) -> np.ndarray:
        visited.append(obs[0, 0])
        everyone = np.broadcast_to(obs, (len(restored.seeds), *obs.shape[1:]))
        return act(0, everyone, step)[index : index + 1]

    episode_seeds = evaluation_seeds(restored.seeds[index], restored.checkpoint.env_step, 1)
    played = run_episodes([environment], [episode_seeds], choose_action)
    assert played is not None  # nothing stops this episode
    return np.stack(visited), played[0][0].episode_return


def _spread(length: int, num: int) -> list[int]:
    return sorted(set(np.linspace(0, length - 1, num).round().astype(int).tolist()))


def _view(agent: DimeAgent, obs: np.ndarray, env_step: int, plane: tuple[int, ...]) -> StateView:
    key = jax.random.fold_in(jax.random.key(0), env_step)
    actions, _ = draw_chains(agent.state.policy.module, obs[env_step], NUM_CHAINS, key)
    shown = actions[..., list(plane)]
    return StateView(
        env_step=env_step,
        mass=masses(shown),
        points=shown[:, :NUM_POINTS],
        density=agent.density(obs[env_step], actions[-1].mean(axis=0), plane),
    )


def _bounds(agent: DimeAgent, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """-log_prob of the chain, as in the policy's loss, averaged over chains of each state."""
    at = np.array(_spread(len(obs), MAX_BOUND_STATES))
    key = jax.random.key(1)
    _, log_prob = draw_chains(agent.state.policy.module, obs[at], NUM_BOUND_CHAINS, key)
    error = log_prob.std(axis=0, ddof=1) / np.sqrt(NUM_BOUND_CHAINS)
    return at, -log_prob.mean(axis=0), error


def _target_bound(config: DimeConfig, action_dim: int) -> float | None:
    """The entropy bound at which the running cost is on its target."""
    if not config.temperature.learn:
        return None
    prior_entropy = 0.5 * np.log(2.0 * np.pi * np.e * config.policy.prior_std**2)
    return float(action_dim * (prior_entropy - config.temperature.target_running_cost_per_dim))
