"""Policy iteration with the entropy *bound* on a finite MDP (DIME propositions 4.1 to 4.3).

Everything is finite here, the latents too, so each expectation is a sum: a policy is a chain
`z_0 -> z_1 -> action` with a fixed law of z_0, as in DIME, and the noising kernels
`action -> z_1 -> z_0` are fixed. The bound's one-sample value is eq. 15's,

    log_prob = log p(z_0) p(z_1|z_0,s) p(a|z_1,s) - log q(z_1|a) q(z_0|z_1),

whose mean is at least E[log p(a|s)]. Policy evaluation is the package's scalar backup (eq. 21).
Exact minimisation of eq. 22 over all such chains is a backward recursion. When the noising forgets
the action altogether the bound becomes tight and the limit is the soft-optimal policy; when it
does not (as in practice), the limit is the best chain, below the soft optimum.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.critics.heads import ScalarHead, SoftBackup
from dime.updates.max_entropy import max_entropy_policy_loss

STATES, ACTIONS, LATENTS = 5, 3, 4
DISCOUNT, TEMPERATURE = 0.9, 0.5


def logsumexp(x, axis):
    top = x.max(axis=axis, keepdims=True)
    return (top + np.log(np.exp(x - top).sum(axis=axis, keepdims=True))).squeeze(axis)


def random_kernel(rng, *shape):
    return rng.dirichlet(np.ones(shape[-1]), size=shape[:-1])


@jax.jit
def converged(next_pair, backup):
    """Q after 400 soft backups from 0 (0.9^400 is 5e-19); `next_pair` gives E[Q(s', a')]."""

    def sweep(_, q):
        return ScalarHead().target((next_pair @ q)[None, :, None], backup)

    return jax.lax.fori_loop(0, 400, sweep, jnp.zeros(STATES * ACTIONS))


class FiniteProblem:
    """An MDP and noising kernels; `mixing` of 1 makes the noising forget the action."""

    def __init__(self, seed, mixing):
        rng = np.random.default_rng(seed)
        self.transition = random_kernel(rng, STATES, ACTIONS, STATES)
        self.reward = 2.0 * rng.normal(size=(STATES, ACTIONS))
        self.prior = random_kernel(rng, LATENTS)
        self.noise_action = random_kernel(rng, ACTIONS, LATENTS)  # q(z_1 | a)
        kernel = random_kernel(rng, LATENTS, LATENTS)
        self.noise_latent = mixing * self.prior + (1.0 - mixing) * kernel  # q(z_0 | z_1)

    def random_policy(self, rng):
        first = random_kernel(rng, STATES, LATENTS, LATENTS)  # p(z_1 | z_0, s)
        return first, random_kernel(rng, STATES, LATENTS, ACTIONS)  # p(a | z_1, s)

    def joint(self, policy):
        """p(z_0, z_1, a | s), axes in that order after the state."""
        first, second = policy
        return self.prior[:, None, None] * first[..., None] * second[:, None]

    def log_prob(self, policy):
        """The one-sample value of the bound on log p(a|s) at every (s, z_0, z_1, a)."""
        log_noising = np.log(self.noise_latent.T)[..., None] + np.log(self.noise_action.T)
        return np.log(self.joint(policy)) - log_noising

    def expect(self, policy, function):
        """E[function(s, z_0, z_1, a)] under the policy, per state."""
        return (self.joint(policy) * function).sum(axis=(1, 2, 3))

    def evaluate(self, policy):
        """Q of the policy: the package's backup from 0, until it stands still (prop. 4.1)."""
        cost = TEMPERATURE * self.expect(policy, self.log_prob(policy))
        action_probs = self.joint(policy).sum(axis=(1, 2))
        per_pair = self.transition.reshape(-1, STATES)
        with jax.enable_x64(True):
            backup = SoftBackup(
                reward=jnp.asarray(self.reward.reshape(-1)),
                discount=jnp.full(STATES * ACTIONS, DISCOUNT),
                entropy_cost=jnp.asarray(per_pair @ cost),
            )
            next_pair = jnp.asarray(per_pair[:, :, None] * action_probs).reshape(len(per_pair), -1)

            result = np.asarray(converged(next_pair, backup))
        return result.reshape(STATES, ACTIONS)

    def best_response(self, q):
        """The chain that minimises eq. 22 for this Q, and each state's largest E[Q] + bound."""
        target = q[:, None, :] / TEMPERATURE + np.log(self.noise_action.T)  # s, z_1, a
        value = logsumexp(target, axis=-1)
        second = np.exp(target - value[..., None])
        target = value[:, None, :] + np.log(self.noise_latent.T)  # s, z_0, z_1
        value = logsumexp(target, axis=-1)
        first = np.exp(target - value[..., None])
        return (first, second), TEMPERATURE * ((value - np.log(self.prior)) @ self.prior)

    def best_chain_q(self, sweeps=400):
        """Q of the best chain, by value iteration on the bound."""
        q = np.zeros((STATES, ACTIONS))
        for _ in range(sweeps):
            q = self.reward + DISCOUNT * self.transition @ self.best_response(q)[1]
        return q

    def soft_optimal_q(self, sweeps=400):
        """Q of the maximum-entropy optimum over all policies, chains or not."""
        q = np.zeros((STATES, ACTIONS))
        for _ in range(sweeps):
            value = TEMPERATURE * logsumexp(q / TEMPERATURE, axis=-1)
            q = self.reward + DISCOUNT * self.transition @ value
        return q

    def marginal_q(self, policy):
        """Soft Q of a policy with its true marginal entropy, by a linear solve."""
        action_probs = self.joint(policy).sum(axis=(1, 2))
        value = (action_probs * -TEMPERATURE * np.log(action_probs)).sum(axis=-1)
        reward = self.reward + DISCOUNT * self.transition @ value
        next_pair = self.transition[..., None] * action_probs
        matrix = np.eye(STATES * ACTIONS) - DISCOUNT * next_pair.reshape(STATES * ACTIONS, -1)
        return np.linalg.solve(matrix, reward.reshape(-1)).reshape(STATES, ACTIONS)


SEEDS = range(5)


@pytest.mark.parametrize("seed", SEEDS)
def test_evaluation_converges_to_the_value_with_the_bound(seed):
    problem = FiniteProblem(seed, mixing=0.3)
    policy = problem.random_policy(np.random.default_rng(seed))
    q = problem.evaluate(policy)
    value = problem.expect(policy, q[:, None, None, :] - TEMPERATURE * problem.log_prob(policy))
    expected = problem.reward + DISCOUNT * problem.transition @ value
    np.testing.assert_allclose(q, expected, rtol=0, atol=1e-10)
    # A bound: for this policy every Q is below the one with the marginal's own entropy.
    assert (problem.marginal_q(policy) - q).min() > 0.1


@pytest.mark.parametrize("mixing", [1.0, 0.3])
@pytest.mark.parametrize("seed", SEEDS)
def test_improvement_never_lowers_q_and_reaches_the_best_chain(seed, mixing):
    problem = FiniteProblem(seed, mixing)
    policy = problem.random_policy(np.random.default_rng(100 + seed))
    q, gains = problem.evaluate(policy), []
    for _ in range(40):
        policy, _ = problem.best_response(q)
        improved = problem.evaluate(policy)
        gains.append((improved - q).min())
        q = improved
    assert gains[0] > 0.1
    assert min(gains) > -1e-10
    np.testing.assert_allclose(q, problem.best_chain_q(), rtol=0, atol=1e-9)

    optimum = problem.soft_optimal_q()
    if mixing == 1.0:  # the bound is tight there: the soft optimum over all policies
        np.testing.assert_allclose(q, optimum, rtol=0, atol=1e-9)
        action_probs = problem.joint(policy).sum(axis=(1, 2))
        expected = np.exp((optimum - optimum.max(axis=-1, keepdims=True)) / TEMPERATURE)
        expected /= expected.sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(action_probs, expected, atol=1e-9)
    else:  # below it, by what the noising still remembers of the action
        assert (optimum - q).min() > 0.01
        assert (problem.marginal_q(policy) - q).min() > 0.001


@pytest.mark.parametrize("seed", SEEDS)
def test_best_response_minimises_the_policy_loss(seed):
    problem = FiniteProblem(seed, mixing=0.3)
    rng = np.random.default_rng(200 + seed)
    q = 3.0 * rng.normal(size=(STATES, ACTIONS))

    def loss(logits):
        # Rows are all (s, z_0, z_1, a), weighted so that their mean is the policy's expectation.
        first, second = (jax.nn.log_softmax(x) for x in logits)
        log_joint = np.log(problem.prior)[:, None, None] + first[..., None] + second[:, None]
        log_noising = np.log(problem.noise_latent.T)[..., None] + np.log(problem.noise_action.T)
        weight = jnp.exp(log_joint) * log_joint.size / STATES
        log_prob = weight * (log_joint - log_noising)
        value = weight * q[:, None, None, :]
        temperature = jnp.asarray(TEMPERATURE, jnp.float64)
        return max_entropy_policy_loss(log_prob.reshape(-1), value.reshape(-1), temperature)

    best, best_value = problem.best_response(q)
    with jax.enable_x64(True):
        evaluate = jax.jit(jax.value_and_grad(loss))

        def as_logits(policy):
            return tuple(jnp.asarray(np.log(x)) for x in policy)

        lowest, gradient = evaluate(as_logits(best))
        others = [evaluate(as_logits(problem.random_policy(rng)))[0] for _ in range(200)]
        nearby = [x + 0.05 * rng.normal(size=x.shape) for x in as_logits(best)]
        beside, _ = evaluate(tuple(nearby))
    lowest, others, beside = float(lowest), [float(x) for x in others], float(beside)
    assert lowest == pytest.approx(-best_value.mean(), abs=1e-10)
    assert max(np.abs(np.asarray(g)).max() for g in gradient) < 1e-10
    assert min(others) > lowest
    assert beside > lowest
