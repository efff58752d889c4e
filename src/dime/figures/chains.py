"""What a denoising chain does to actions, in numbers: marginals on bins, and exp(Q / temperature).

All densities live on the box of actions, [-1, 1] per dimension, cut into the same bins.
"""

from statistics import NormalDist
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from dime.policies.diffusion import DiffusionPolicy

NUM_BINS = {1: 100, 2: 40}
"""Per action dimension, on a line and on a plane."""


class Chains(NamedTuple):
    """Chains of one or more observations.

    Attributes:
        actions: (steps + 1, *batch, act), tanh of every latent; the last are the actions taken.
        log_prob: (*batch), one-sample values of the bound on the log density, nats.
    """

    actions: np.ndarray
    log_prob: np.ndarray


def bin_edges(dims: int) -> np.ndarray:
    """The ends of the bins of one action dimension, (bins + 1,), where `dims` are drawn."""
    return np.linspace(-1.0, 1.0, NUM_BINS[dims] + 1)


def bin_centres(dims: int) -> np.ndarray:
    """The middles of the bins of one action dimension, (bins,), where `dims` are drawn."""
    edges = bin_edges(dims)
    return 0.5 * (edges[1:] + edges[:-1])


@eqx.filter_jit
def _draw(policy: DiffusionPolicy, obs: Float[Array, "*batch obs"], key: Key[Array, ""]) -> Any:
    chain = policy.draw(obs, key)
    return jnp.tanh(chain.latents), policy.weigh(chain).log_prob


def draw_chains(policy: DiffusionPolicy, obs: np.ndarray, num: int, key: Key[Array, ""]) -> Chains:
    """`num` chains for each observation: of (*batch, obs) the result has axes (num, *batch).

    The last actions and their `log_prob` are those of `policy.sample` with the same key.
    """
    repeated = jnp.broadcast_to(jnp.asarray(obs), (num, *obs.shape))
    actions, log_prob = _draw(policy, repeated, key)
    return Chains(np.asarray(actions), np.asarray(log_prob, np.float64))


def masses(actions: np.ndarray) -> np.ndarray:
    """The share of samples in each bin.

    Args:
        actions: (..., samples, dims) in [-1, 1], dims 1 or 2.

    Returns:
        (..., *bins), an axis of bins per dimension; the bins of each leading index sum to one.

    >>> masses(np.array([[-0.99], [0.99], [0.999], [1.0]]))[[0, -1]]
    array([0.25, 0.75])
    """
    leading, dims = actions.shape[:-2], actions.shape[-1]
    edges = [bin_edges(dims)] * dims
    flat = actions.reshape(-1, *actions.shape[-2:])
    counts = [np.histogramdd(samples, edges)[0] for samples in flat]
    return np.reshape(counts, (*leading, *[NUM_BINS[dims]] * dims)) / actions.shape[-2]


def prior_masses(prior_std: float) -> np.ndarray:
    """The probability of each bin of a line under tanh of N(0, prior_std^2), in closed form.

    >>> float(prior_masses(2.5).sum().round(9))
    1.0
    """
    law = NormalDist(0.0, prior_std)
    with np.errstate(divide="ignore"):
        latent = np.arctanh(bin_edges(1))
    below = [law.cdf(end) if np.isfinite(end) else float(end > 0.0) for end in latent]
    return np.diff(below)


def boltzmann(values: np.ndarray, temperature: float) -> np.ndarray:
    """exp(values / temperature) on the bins' centres, normalised: its integral over them is one.

    Args:
        values: (*bins), in units of return.
        temperature: return per nat.

    >>> float((boltzmann(np.arange(100.0), 2.0) * 2 / 100).sum().round(9))
    1.0
    """
    log_density = (values - values.max()) / temperature
    density = np.exp(log_density)
    return density / (density.sum() * (2.0 / len(values)) ** values.ndim)


def levels_enclosing(density: np.ndarray, shares: tuple[float, ...]) -> list[float]:
    """Levels of a density whose regions above hold these shares of its mass, lowest level first.

    Levels that bins cannot tell apart are given once, and none that the whole box lies above.
    """
    falling = np.sort(density, axis=None)[::-1]
    held = np.cumsum(falling) / falling.sum()
    levels = {float(falling[min(np.searchsorted(held, s), falling.size - 1)]) for s in shares}
    return sorted(level for level in levels if falling[-1] < level < falling[0])


def total_variation(mass: np.ndarray, density: np.ndarray) -> float:
    """Half the summed difference between bins' shares and a density on the bins, 0 to 1."""
    expected = density / density.sum()
    return float(0.5 * np.abs(mass - expected).sum())
