"""The tanh-Gaussian policy and its temperature against CrossQ's code."""

import jax
import jax.numpy as jnp
import pytest

from dime.algorithms.dime import DimeGaussianConfig
from dime.policies.tanh_gaussian import GaussianPolicyConfig
from dime.types import EnvSpec
from dime.updates.max_entropy import Temperature, max_entropy_policy_loss, temperature_loss

from .golden import (
    assert_close,
    assert_trees_close,
    compiled,
    every_array_is_read,
    fill,
    first_gradient,
    layers_of,
    widened,
)
from .pool import EXACT, MARKS
from .q_function import q_of

pytestmark = MARKS


@pytest.fixture(scope="module")
def policy(golden):
    _, obs_dim, action_dim, hidden_dim = golden.arrays["const/batch_obs_act_hidden"].tolist()
    config = GaussianPolicyConfig(
        hidden_dim=hidden_dim, num_hidden_layers=len(layers_of(golden, "policy/layers/")) - 1
    )
    key, spec = jax.random.key(0), EnvSpec(obs_dim, action_dim)
    return policy_of(golden, "policy", jax.eval_shape(lambda: config.make(spec, key)))


def policy_of(golden, prefix, template):
    layers = widened(layers_of(golden, f"{prefix}/layers/"))
    return fill(template, jax.tree.leaves(layers))


def test_distribution(golden, policy):
    distribution = jax.jit(
        lambda policy, obs: (policy.distribution(obs), policy.deterministic(obs))
    )
    law, mode = distribution(policy, widened(golden.arrays["obs"]))
    assert_close(law.mean, golden.arrays["mean"], EXACT)
    assert_close(law.log_std, golden.arrays["log_std"], EXACT)  # one of them at its bound
    assert_close(mode, golden.arrays["mode"], EXACT)


def test_policy_loss_and_its_gradient(golden, policy):
    def loss_of(policy, obs, temperature, key):
        sample = policy.sample(obs, key)
        value = q_of(golden, obs, sample.action)
        return max_entropy_policy_loss(sample.log_prob, value, temperature), sample

    run = compiled(jax.value_and_grad(loss_of, has_aux=True))
    draws = {"normal": [golden.arrays["noise"]]}
    arguments = golden.arrays["obs"], golden.arrays["const/temperature"], jax.random.key(0)
    (loss, sample), gradient = run(draws, policy, *arguments)
    assert_close(sample.action, golden.arrays["action"], EXACT)
    assert_close(sample.log_prob, golden.arrays["log_prob"], EXACT)
    assert_close(loss, golden.arrays["policy_loss"], EXACT)
    assert_trees_close(gradient, policy_of(golden, "gradient", gradient), EXACT)


def test_temperature_step(golden):
    config = DimeGaussianConfig().temperature
    initial = jnp.log(jnp.asarray(golden.arrays["const/temperature"], float))
    target = config.target_running_cost_per_dim * golden.arrays["action"].shape[-1]
    before = Temperature(initial, config.make_optimizer().init(initial))
    log_prob = golden["log_prob"]
    after = before.step(config, lambda log: temperature_loss(log, log_prob, target))
    gradient = first_gradient(after.optimizer)
    assert_close(gradient, golden.arrays["temperature_gradient"], EXACT)
    assert_close(after.log_value, golden.arrays["log_temperature_after"], EXACT)


test_every_array_is_read = every_array_is_read
