"""Configurations that cannot work are refused when they are made, with field and value."""

import dataclasses

import jax
import pytest

from dime.algorithms.dime import DimeConfig, dime
from dime.critics.critics import CriticConfig
from dime.critics.heads import ScalarHead
from dime.errors import DimeError
from dime.policies.diffusion import DiffusionPolicyConfig
from dime.types import EnvSpec
from dime.updates.max_entropy import TemperatureConfig

INF, NAN = float("inf"), float("nan")
BAD = [
    (DimeConfig, {"policy_delay": 0}),
    (DimeConfig, {"num_action_candidates": 0}),
    (DimeConfig, {"discount": 1.0}),
    (DimeConfig, {"discount": -0.1}),
    (DimeConfig, {"discount": NAN}),
    (DiffusionPolicyConfig, {"num_denoising_steps": 0}),
    (DiffusionPolicyConfig, {"prior_std": 0.0}),
    (DiffusionPolicyConfig, {"prior_std": INF}),
    (DiffusionPolicyConfig, {"initial_step_scale": -0.1}),
    (DiffusionPolicyConfig, {"hidden_dim": 0}),
    (DiffusionPolicyConfig, {"num_hidden_layers": 0}),
    (DiffusionPolicyConfig, {"learning_rate": NAN}),
    (DiffusionPolicyConfig, {"adam_b1": 1.0}),
    (DiffusionPolicyConfig, {"max_gradient": 0.0}),
    (CriticConfig, {"v_min": 200.0, "v_max": 200.0}),
    (CriticConfig, {"v_min": -200.0, "v_max": -300.0}),
    (CriticConfig, {"v_max": INF}),
    (CriticConfig, {"v_min": NAN}),
    (CriticConfig, {"num_atoms": 1}),
    (CriticConfig, {"entropy_weight": -0.005}),
    (CriticConfig, {"entropy_weight": INF}),
    (CriticConfig, {"hidden_dim": -5}),
    (CriticConfig, {"num_hidden_layers": 0}),
    (CriticConfig, {"num_critics": 0}),
    (CriticConfig, {"learning_rate": -3e-4}),
    (CriticConfig, {"adam_b1": -0.5}),
    (CriticConfig, {"renorm_warmup_updates": -1}),
    (TemperatureConfig, {"initial": 0.0}),
    (TemperatureConfig, {"initial": INF}),
    (TemperatureConfig, {"learning_rate": 0.0}),
    (TemperatureConfig, {"target_running_cost_per_dim": NAN}),
]


@pytest.mark.parametrize(
    "config, fields", BAD, ids=lambda part: part.__name__ if isinstance(part, type) else str(part)
)
def test_bad_values_are_refused_by_name(config, fields):
    (name, value), *_ = fields.items()
    with pytest.raises(DimeError) as caught:
        config(**fields)
    assert name in str(caught.value)
    assert str(value) in str(caught.value)


def test_an_unknown_head_is_refused():
    # Not through the constructor: the type checks of these tests would answer first.
    config = CriticConfig()
    object.__setattr__(config, "head", "quantile")
    with pytest.raises(DimeError, match="quantile"):
        config.__post_init__()
        config.make_head()


@pytest.mark.parametrize("missing", ["v_min", "v_max"])
def test_a_categorical_critic_needs_a_support(missing):
    with pytest.raises(DimeError, match=missing):
        CriticConfig(**{missing: None}).make_head()
    assert CriticConfig(head="scalar", **{missing: None}).make_head() == ScalarHead()


def test_refusal_of_a_replaced_field():
    with pytest.raises(DimeError, match="policy_delay is 0"):
        dataclasses.replace(DimeConfig(), policy_delay=0)


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DimeConfig().discount = 0.5


def test_defaults_are_the_papers():
    config = DimeConfig()
    policy, critic, temperature = config.policy, config.critic, config.temperature
    assert (policy.num_denoising_steps, policy.prior_std) == (16, 2.5)
    assert (policy.hidden_dim, policy.num_hidden_layers) == (256, 3)
    assert (critic.hidden_dim, critic.num_hidden_layers, critic.num_critics) == (2048, 2, 2)
    assert (critic.num_atoms, critic.v_min, critic.v_max) == (101, None, None)
    assert critic.entropy_weight == 0.005
    assert (policy.learning_rate, critic.learning_rate) == (3e-4, 3e-4)
    assert (policy.adam_b1, critic.adam_b1, policy.max_gradient) == (0.5, 0.5, 1.0)
    assert (temperature.initial, temperature.target_running_cost_per_dim) == (1.0, 4.0)
    assert temperature.learning_rate == 1e-3
    assert (config.discount, config.policy_delay) == (0.99, 3)


SUPPORTED = {"hidden_dim": 4, "v_min": -1.0, "v_max": 1.0}


@pytest.mark.parametrize("limit", [
    {"policy": DiffusionPolicyConfig(num_denoising_steps=1, hidden_dim=1, num_hidden_layers=1)},
    {"critic": SUPPORTED | dict(hidden_dim=1, num_hidden_layers=1, num_atoms=2, num_critics=1)},
    {"discount": 0.0, "policy_delay": 1, "num_action_candidates": 1},
], ids=lambda fields: next(iter(fields)))  # fmt: skip
def test_the_smallest_allowed_values_make_an_agent(limit):
    small = {
        "policy": DiffusionPolicyConfig(hidden_dim=4),
        "critic": SUPPORTED,
    }
    fields = small | limit
    config = DimeConfig(**fields | {"critic": CriticConfig(**fields["critic"])})
    agent = dime(config, EnvSpec(1, 1))
    jax.eval_shape(agent.init, jax.random.key(0))
