"""General bridges and the log-variance objective against a code of diffusion samplers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.policies.diffusion import BridgePolicyConfig, DiffusionPolicyConfig
from dime.policies.tanh_gaussian import tanh_log_det
from dime.types import EnvSpec
from dime.updates.max_entropy import log_variance_policy_loss, max_entropy_policy_loss

from .golden import (
    assert_close,
    assert_trees_close,
    compiled,
    every_array_is_read,
    fill,
    layers_of,
    widened,
)
from .pool import EXACT, MARKS
from .q_function import q_of

pytestmark = MARKS


class Sizes(NamedTuple):
    num_chains: int
    num_states: int
    obs_dim: int
    action_dim: int
    hidden_dim: int
    num_steps: int
    num_layers: int


class Case:
    """One of a file's two chains: with a network in the noising kernel, or without."""

    def __init__(self, golden, name):
        self.golden, self.name = golden, name
        sizes = Sizes(*golden.arrays["const/chains_states_obs_act_hidden_steps_layers"].tolist())
        config = {"bridge": BridgePolicyConfig, "no_bridge": DiffusionPolicyConfig}[name](
            num_denoising_steps=sizes.num_steps,
            prior_std=float(golden.arrays["const/prior_std"]),
            hidden_dim=sizes.hidden_dim,
            num_hidden_layers=sizes.num_layers,
        )
        spec, key = EnvSpec(sizes.obs_dim, sizes.action_dim), jax.random.key(0)
        template = jax.eval_shape(lambda: config.make(spec, key))
        self.temperature = float(golden.arrays["const/temperature"])
        obs = golden.arrays["obs"]
        self.obs = np.broadcast_to(obs, (sizes.num_chains, *obs.shape))
        self.policy = self.policy_of("policy", template)

    def __getitem__(self, name):
        return self.golden.arrays[f"{self.name}/{name}"]

    def policy_of(self, prefix, template):
        """The policy's parameters, or their gradient, under `prefix`."""
        arrays = self.golden.arrays

        def network(name):
            embedding = f"{prefix}/{name}/embedding/"
            dense = [f"{embedding}hidden", f"{embedding}output"]
            count = len(layers_of(self.golden, f"{prefix}/{name}/hidden/"))
            dense += [f"{prefix}/{name}/hidden/{i}" for i in range(count)]
            dense += [f"{prefix}/{name}/output"]
            leaves = [arrays[f"{each}/{part}"] for each in dense for part in ("kernel", "bias")]
            return [arrays[f"{embedding}phase"], *leaves]

        networks = ("control", "noising_control")[: 2 if self.name == "bridge" else 1]
        leaves = [leaf for name in networks for leaf in network(name)]
        leaves += [arrays[f"{prefix}/raw_step_scale"], arrays[f"{prefix}/raw_dim_divisor"]]
        return fill(template, widened(leaves))

    def gradient_of(self, name):
        return self.policy_of(f"{self.name}/gradient_{name}", self.policy)


@pytest.fixture(scope="module")
def cases(golden):
    return [Case(golden, name) for name in ("bridge", "no_bridge") if name in golden]


def bound_of(case):
    """The loss of the chains' bound; the chains, the samples and the values; the gradient."""

    def loss_of(policy, obs, prior_draw, noise, temperature):
        chain = policy.chain(obs, prior_draw, noise)
        sample = policy.weigh(chain)
        value = q_of(case.golden, obs, sample.action)
        loss = max_entropy_policy_loss(sample.log_prob, value, temperature)
        return loss / temperature, (chain, sample, value)

    run = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
    arguments = case.policy, case.obs, case["prior_draw"], case["noise"]
    (loss, chains), gradient = run(*widened(arguments), case.temperature)
    return loss, chains, gradient


def test_bound(cases):
    for case in cases:
        loss, (chain, sample, value), gradient = bound_of(case)
        last = chain.latents[-1]
        assert_close(last, case["last_latent"], EXACT, case.name)
        assert_close(-chain.log_ratio, case["minus_log_ratio"], EXACT, case.name)
        log_target = value / case.temperature + tanh_log_det(last)
        cost = sample.log_prior - log_target
        assert_close(cost, case["log_prior_minus_log_target"], EXACT, case.name)
        by_state = (sample.log_prob - value / case.temperature).mean(axis=0)
        assert_close(by_state, case["neg_elbo_by_state"], EXACT, case.name)
        assert_close(loss, case["neg_elbo_by_state"].mean(), EXACT, case.name)
        assert_trees_close(gradient, case.gradient_of("neg_elbo"), EXACT, case.name)


def log_variance_of(case):
    """The log-variance loss, that of each state alone, and the gradient."""

    def loss_of(policy, obs, temperature, key):
        sample = policy.sample_detached(obs, key)
        value = q_of(case.golden, obs, sample.action)
        of_states = [
            log_variance_policy_loss(sample.log_prob[:, [i]], value[:, [i]], temperature)
            for i in range(obs.shape[1])
        ]
        loss = log_variance_policy_loss(sample.log_prob, value, temperature)
        return loss, jnp.stack(of_states)

    run = compiled(jax.value_and_grad(loss_of, has_aux=True))
    draws = {"normal": [case["prior_draw"] / case.policy.prior_std, case["noise"]]}
    temperature = np.asarray(case.temperature)
    arguments = case.policy, case.obs, temperature, jax.random.key(0)
    (loss, of_states), gradient = run(draws, *arguments)
    return loss, of_states, gradient


def test_log_variance(cases):
    for case in cases:
        loss, of_states, gradient = log_variance_of(case)
        assert_close(of_states, case["log_variance_by_state"], EXACT, case.name)
        assert_close(loss, case["log_variance_by_state"].mean(), EXACT, case.name)
        expected = case.gradient_of("log_variance_detached")
        assert_trees_close(gradient, expected, EXACT, case.name)
        if f"{case.name}/gradient_log_variance_as_released" in case.golden:
            leaking = case.gradient_of("log_variance_as_released")
            assert distance(leaking.control, gradient.control) > 0.1


def distance(found, other):
    """Relative to the norm of the second one."""
    found, other = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (found, other)
    )
    return np.linalg.norm(found - other) / np.linalg.norm(other)


test_every_array_is_read = every_array_is_read
