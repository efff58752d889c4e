"""DACER's estimate of a policy's entropy: a Gaussian mixture fitted to its actions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

_REGULARISATION = 1e-6  # added to the covariances' diagonals; it bounds the entropy from below
_TOLERANCE = 1e-3
_MAX_STEPS = 100
_NUM_CLUSTERING_STEPS = 25


class Mixture(NamedTuple):
    """A mixture of Gaussians with full covariances."""

    weights: Float[Array, " components"]
    means: Float[Array, "components dim"]
    covariances: Float[Array, "components dim dim"]


def mean_mixture_entropy(
    points: Float[Array, "points sets dim"], num_components: int, key: Key[Array, ""]
) -> Float[Array, ""]:
    """The mean entropy of a mixture fitted to each set of points, in nats."""

    def entropy_of(points, key):
        return mixture_entropy(fit_mixture(points, num_components, key))

    keys = jax.random.split(key, points.shape[1])
    # The least variance is 1e-6, below what products in reduced precision can tell from 0.
    with jax.default_matmul_precision("highest"):
        return jax.vmap(entropy_of, in_axes=(1, 0))(points, keys).mean()


def mixture_entropy(mixture: Mixture) -> Float[Array, ""]:
    """Entropy of the weights plus the components' mean entropy, in nats.

    Exact where the components do not overlap, else too large.
    """
    log_weights = jnp.log(jnp.maximum(mixture.weights, jnp.finfo(jnp.float32).tiny))
    dim = mixture.means.shape[-1]
    log_det = jnp.linalg.slogdet(mixture.covariances)[1]
    of_components = 0.5 * (dim * jnp.log(2.0 * jnp.pi * jnp.e) + log_det)
    return (mixture.weights * (of_components - log_weights)).sum()


def fit_mixture(
    points: Float[Array, "points dim"], num_components: int, key: Key[Array, ""]
) -> Mixture:
    """The mixture of largest likelihood near a clustering of the points, by EM.

    At most 100 steps, until the mean log-likelihood grows by less than 1e-3.
    """
    labels = _cluster(points, num_components, key)
    first = _maximise(points, jax.nn.one_hot(labels, num_components))

    def unfinished(carry):
        _, bound, change, step = carry
        return (step < _MAX_STEPS) & (jnp.abs(change) >= _TOLERANCE)

    def step(carry):
        mixture, bound, _, count = carry
        log_joint = _log_joint(points, mixture)
        new_bound = jax.nn.logsumexp(log_joint, axis=-1).mean()
        mixture = _maximise(points, jax.nn.softmax(log_joint, axis=-1))
        return mixture, new_bound, new_bound - bound, count + 1

    start = (first, jnp.float32(-jnp.inf), jnp.float32(jnp.inf), jnp.int32(0))
    return jax.lax.while_loop(unfinished, step, start)[0]


def _maximise(
    points: Float[Array, "points dim"], shares: Float[Array, "points components"]
) -> Mixture:
    """The mixture that suits each component's share in each point."""
    counts = shares.sum(axis=0) + 1e-6
    means = shares.T @ points / counts[:, None]
    centred = points[:, None, :] - means
    covariances = jnp.einsum("pc,pci,pcj->cij", shares, centred, centred)
    covariances = covariances / counts[:, None, None]
    covariances += _REGULARISATION * jnp.eye(points.shape[-1])
    return Mixture(counts / counts.sum(), means, covariances)


def _log_joint(
    points: Float[Array, "points dim"], mixture: Mixture
) -> Float[Array, "points components"]:
    """Log weight plus log density of each component at each point."""

    def log_density(mean, covariance):
        factor = jnp.linalg.cholesky(covariance)
        scaled = jax.scipy.linalg.solve_triangular(factor, (points - mean).T, lower=True)
        log_det = jnp.log(jnp.diagonal(factor)).sum()
        constant = 0.5 * points.shape[-1] * jnp.log(2.0 * jnp.pi)
        return -0.5 * (scaled**2).sum(axis=0) - log_det - constant

    densities = jax.vmap(log_density)(mixture.means, mixture.covariances)
    return densities.T + jnp.log(mixture.weights)


def _cluster(
    points: Float[Array, "points dim"], num_clusters: int, key: Key[Array, ""]
) -> Int[Array, " points"]:
    """Labels by k-means, from centres drawn far from each other (k-means++)."""
    first_key, *keys = jax.random.split(key, num_clusters)
    centres = jax.random.choice(first_key, points)[None]
    for centre_key in keys:
        nearest = _squared_distances(points, centres).min(axis=-1)
        # Where all points are the same, any will do.
        drawn = jax.random.categorical(centre_key, jnp.log(nearest + 1e-30))
        centres = jnp.concatenate([centres, points[drawn][None]])

    def move(centres, _):
        member = jax.nn.one_hot(_squared_distances(points, centres).argmin(axis=-1), num_clusters)
        counts = member.sum(axis=0)
        means = member.T @ points / jnp.maximum(counts, 1.0)[:, None]
        return jnp.where(counts[:, None] > 0.0, means, centres), None

    centres, _ = jax.lax.scan(move, centres, None, _NUM_CLUSTERING_STEPS)
    return _squared_distances(points, centres).argmin(axis=-1)


def _squared_distances(points: Array, centres: Array) -> Float[Array, "points centres"]:
    return ((points[:, None, :] - centres) ** 2).sum(axis=-1)
