"""DIME as a whole: the order of its updates, its act modes, its transformations."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.algorithms.dime import DimeConfig, dime
from dime.critics.critics import CriticConfig, CriticState
from dime.critics.heads import SoftBackup
from dime.optimizers import TrainState, gradient_step
from dime.policies.diffusion import DiffusionPolicyConfig
from dime.types import Batch, Counters, EnvSpec, Transition
from dime.updates.max_entropy import (
    Temperature,
    TemperatureConfig,
    max_entropy_policy_loss,
    temperature_loss,
)
from tests.joint_critics import combined_value, joint_critic_loss

SPEC, ROWS = EnvSpec(obs_dim=3, action_dim=2), 8
CONFIG = DimeConfig(
    policy=DiffusionPolicyConfig(
        num_denoising_steps=3, hidden_dim=8, num_hidden_layers=1, learning_rate=1e-2
    ),
    critic=CriticConfig(
        hidden_dim=8, num_hidden_layers=1, num_atoms=11, v_min=-10.0, v_max=10.0, learning_rate=1e-2
    ),
    temperature=TemperatureConfig(initial=0.5, learning_rate=1e-2),
    num_action_candidates=5,
)
METRICS = {
    "critic_loss", "critic_gradient_norm", "q_mean", "critic_entropy", "target_end_mass",
    "target_low", "target_high", "target_clipped_mass", "target_clipped_mass_of_returns",
    "policy_loss", "policy_gradient_norm", "running_cost", "entropy_bound_per_dim",
    "temperature", "step_sizes", "diffusion_scale",
}  # fmt: skip
ONLY_CATEGORICAL = {name for name in METRICS if name.startswith("target_")} | {"critic_entropy"}
DUE, NOT_DUE = 2, 0  # updates completed before: the third of three is due


def counters(update):
    return Counters(jnp.asarray(100, jnp.int32), jnp.asarray(update, jnp.int32))


def batch(seed=0):
    keys = jax.random.split(jax.random.key(1000 + seed), 4)
    transition = Transition(
        obs=jax.random.normal(keys[0], (ROWS, 3)),
        action=jax.random.uniform(keys[1], (ROWS, 2), minval=-1.0),
        reward=jax.random.normal(keys[2], (ROWS,)),
        next_obs=jax.random.normal(keys[3], (ROWS, 3)),
        terminated=jnp.arange(ROWS) % 3 == 0,
    )
    return Batch(transition, jnp.arange(ROWS))


SCALAR = dataclasses.replace(
    CONFIG, critic=dataclasses.replace(CONFIG.critic, head="scalar"), discount=0.0
)
# The same sizes as CONFIG, so that its states serve here too.
FIXED_EVERY_UPDATE = dataclasses.replace(
    CONFIG, temperature=TemperatureConfig(initial=0.5, learn=False), policy_delay=1
)


@functools.cache
def agent(config=CONFIG):
    """The agent, its init and its update, jitted once for all tests."""
    made = dime(config, SPEC)
    return made, jax.jit(made.init), jax.jit(made.update)


@functools.cache
def trained_state(config=CONFIG):
    """After a few updates, so that nothing is at its special starting value."""
    _, init, update = agent(config)
    state = init(jax.random.key(0))
    for count in range(4):
        key = jax.random.key(10 + count)
        state, _ = update(state, batch(count), key, counters(count))
    return state


def assert_close(first, second, tolerance=1e-5):
    """Leaf by leaf; the trees must have the same structure."""
    assert jax.tree.structure(first) == jax.tree.structure(second)
    leaves = jax.tree_util.tree_leaves_with_path(first)
    for (path, leaf), other in zip(leaves, jax.tree.leaves(second), strict=True):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(leaf, other, rtol=tolerance, atol=tolerance, err_msg=name)


def differs(first, second):
    leaves = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return any(jnp.any(a != b) for a, b in leaves)


# --- one update ---------------------------------------------------------------------------------


@jax.jit
def composition(state, batch, key):
    """The state after the critics' part of an update, after the policy's too; that one's metrics.

    From the public pieces, in the order of the released code.
    """
    config, head = CONFIG, CONFIG.critic.make_head()
    transition = batch.transition
    critic_key, policy_key = jax.random.split(key)

    next_sample = state.policy.module.sample(transition.next_obs, critic_key)
    old_temperature = state.temperature.value
    backup = SoftBackup(
        transition.reward,
        config.discount * jnp.where(transition.terminated, 0.0, 1.0),
        old_temperature * next_sample.log_prob,
    )
    gradient, (stats, _) = jax.grad(joint_critic_loss, has_aux=True)(
        state.critics.online, state.critics.stats, transition, next_sample.action, backup, head
    )
    critics, critic_optimizer, _ = gradient_step(
        config.critic.make_optimizer(), gradient, state.critics.optimizer, state.critics.online
    )
    critics_updated = state._replace(critics=CriticState(critics, critic_optimizer, stats))

    def loss(policy):
        sample = policy.sample(transition.obs, policy_key)
        # The critics and statistics of this very update, the temperature of before.
        value = combined_value(critics, stats, transition.obs, sample.action, head)
        return max_entropy_policy_loss(sample.log_prob, value, old_temperature), sample

    (policy_loss, sample), gradient = jax.value_and_grad(loss, has_aux=True)(state.policy.module)
    policy, policy_optimizer, norm = gradient_step(
        config.policy.make_optimizer(), gradient, state.policy.optimizer, state.policy.module
    )
    target = config.temperature.target_running_cost_per_dim * SPEC.action_dim
    gradient = jax.grad(temperature_loss)(state.temperature.log_value, sample.running_cost, target)
    log_temperature, temperature_optimizer, _ = gradient_step(
        config.temperature.make_optimizer(),
        gradient,
        state.temperature.optimizer,
        state.temperature.log_value,
    )
    both_updated = critics_updated._replace(
        policy=TrainState(policy, policy_optimizer),
        temperature=Temperature(log_temperature, temperature_optimizer),
    )
    return (
        critics_updated,
        both_updated,
        {
            "policy_loss": policy_loss,
            "policy_gradient_norm": norm,
            "running_cost": sample.running_cost.mean(),
            "entropy_bound_per_dim": -sample.log_prob.mean() / SPEC.action_dim,
        },
    )


@pytest.mark.parametrize("update", [NOT_DUE, DUE])
def test_update_is_the_composition_of_its_pieces(update):
    state = trained_state()
    ours, metrics = agent()[2](state, batch(7), jax.random.key(5), counters(update))
    without_policy, with_policy, measured = composition(state, batch(7), jax.random.key(5))
    expected = with_policy if update == DUE else without_policy
    assert_close(ours, expected, 1e-4)
    assert differs(ours.policy.module, state.policy.module) is (update == DUE)
    for name, value in measured.items():
        expected_value = value if update == DUE else 0.0
        np.testing.assert_allclose(metrics[name], expected_value, rtol=1e-4, atol=1e-5)
    for name, value in [
        ("temperature", ours.temperature.value),
        ("step_sizes", ours.policy.module.step_sizes().mean(axis=-1)),
        ("diffusion_scale", ours.policy.module.diffusion_scale()),
    ]:
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5)


def test_policy_and_temperature_wait_for_every_third_critic_update():
    _, init, update = agent()
    state = init(jax.random.key(0))
    for count in range(7):
        key = jax.random.key(10 + count)
        new, _ = update(state, batch(count), key, counters(count))
        for part in ("online", "stats", "optimizer"):
            assert differs(getattr(state.critics, part), getattr(new.critics, part))
        late = [(state.policy, new.policy), (state.temperature, new.temperature)]
        late += zip(state.policy, new.policy, strict=True)
        assert [differs(*pair) for pair in late] == [(count + 1) % 3 == 0] * 4
        state = new


def test_policy_delay_of_one_and_a_fixed_temperature():
    state = trained_state()
    new, metrics = agent(FIXED_EVERY_UPDATE)[2](state, batch(), jax.random.key(1), counters(0))
    assert differs(state.policy.module, new.policy.module)
    assert not differs(state.temperature, new.temperature)
    np.testing.assert_allclose(metrics["temperature"], state.temperature.value, rtol=1e-6)


def test_temperature_starts_as_configured_and_moves_towards_its_target():
    _, init, update = agent()
    state = init(jax.random.key(0))
    assert float(state.temperature.value) == pytest.approx(0.5, rel=1e-6)
    state, metrics = update(state, batch(), jax.random.key(1), counters(DUE))
    short_of_entropy = float(metrics["running_cost"]) > 4.0 * SPEC.action_dim
    assert short_of_entropy == (float(metrics["temperature"]) > 0.5)


def test_termination_cuts_the_future_off():
    # Ended transitions with the same reward have the same target, whatever comes next.
    _, _, update = agent()
    state, transition = trained_state(), batch().transition
    ended = dataclasses.replace(transition, terminated=jnp.ones(ROWS, bool))
    cheaper = state._replace(
        temperature=state.temperature._replace(log_value=state.temperature.log_value - 5.0)
    )
    results = []
    for start in (state, cheaper):
        _, metrics = update(start, Batch(ended, jnp.arange(ROWS)), jax.random.key(3), counters(0))
        results.append(float(metrics["critic_loss"]))
    assert results[0] == pytest.approx(results[1], rel=1e-6)
    bootstrapped = dataclasses.replace(transition, terminated=jnp.zeros(ROWS, bool))
    results = []
    for start in (state, cheaper):
        once = Batch(bootstrapped, jnp.arange(ROWS))
        _, metrics = update(start, once, jax.random.key(3), counters(0))
        results.append(float(metrics["critic_loss"]))
    assert abs(results[0] - results[1]) > 1e-3


@pytest.mark.parametrize("config", [CONFIG, SCALAR], ids=lambda config: config.critic.head)
def test_metrics_are_finite_and_the_documented_ones(config):
    state = trained_state(config)
    state, metrics = agent(config)[2](state, batch(), jax.random.key(4), counters(DUE))
    assert set(metrics) == METRICS - (ONLY_CATEGORICAL if config is SCALAR else set())
    for leaf in jax.tree.leaves((state, metrics)):
        assert jnp.isfinite(leaf).all()
    shapes = {name: value.shape for name, value in metrics.items() if value.shape}
    assert shapes == {"step_sizes": (3,), "diffusion_scale": (2,)}


def test_scalar_critics_learn_to_predict_the_reward():
    _, init, update = agent(SCALAR)
    state, losses = init(jax.random.key(0)), []
    for count in range(150):
        key = jax.random.key(count)
        state, metrics = update(state, batch(), key, counters(count))
        losses.append(float(metrics["critic_loss"]))
    assert losses[-1] < 0.2 * losses[0]


def test_state_keeps_its_shapes_dtypes_and_strength():
    # A weak type or a changed dtype would compile the update anew, or break a scan over it.
    made, init, _ = agent()
    before = jax.eval_shape(init, jax.random.key(0))
    step = counters(0)
    after, _ = jax.eval_shape(made.update, before, batch(), jax.random.key(0), step)
    describe = lambda tree: [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(tree)]  # noqa: E731
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert describe(before) == describe(after)
    assert not any(weak for _, _, weak in describe(before))
    assert {str(dtype) for _, dtype, _ in describe(before)} == {"float32", "int32"}


# --- transformations ----------------------------------------------------------------------------


def test_update_under_jit_equals_eager():
    made, _, update = agent()
    state = trained_state()
    jitted = update(state, batch(7), jax.random.key(5), counters(DUE))
    eager = made.update(state, batch(7), jax.random.key(5), counters(DUE))
    assert_close(jitted, eager, 1e-4)


def test_update_vmapped_over_seeds_equals_a_loop():
    made, init, update = agent()
    num_seeds = 3
    states = [init(jax.random.key(seed)) for seed in range(num_seeds)]
    batches = [batch(seed) for seed in range(num_seeds)]
    stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)  # noqa: E731
    keys = jax.random.split(jax.random.key(6), num_seeds)
    mapped = jax.jit(jax.vmap(made.update, in_axes=(0, 0, 0, None)))
    together = mapped(stack(states), stack(batches), keys, counters(DUE))
    for seed in range(num_seeds):
        key = jax.random.split(jax.random.key(6), num_seeds)[seed]
        alone = update(states[seed], batches[seed], key, counters(DUE))
        assert_close(jax.tree.map(lambda leaf, seed=seed: leaf[seed], together), alone, 1e-4)


# --- acting -------------------------------------------------------------------------------------

MODES = ["explore", "stochastic", "deterministic", "best_of_n"]


@functools.cache
def act(mode):
    return jax.jit(agent()[0].act[mode])


def some_obs(*shape):
    return jax.random.normal(jax.random.key(50), (*shape, SPEC.obs_dim))


def test_there_are_these_modes():
    assert list(agent()[0].act) == MODES


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(), (4,)], ids=str)
def test_actions_have_the_observations_leading_axes_and_stay_in_the_box(mode, shape):
    action = act(mode)(trained_state(), some_obs(*shape), jax.random.key(1), counters(0))
    assert action.shape == (*shape, SPEC.action_dim)
    assert action.dtype == jnp.float32
    assert jnp.abs(action).max() <= 1.0


@pytest.mark.parametrize("mode", MODES)
def test_only_the_deterministic_mode_ignores_the_key(mode):
    first, other = (
        act(mode)(trained_state(), some_obs(4), jax.random.key(seed), counters(0))
        for seed in (1, 2)
    )
    if mode == "deterministic":
        np.testing.assert_array_equal(first, other)
        np.testing.assert_allclose(
            first, trained_state().policy.module.deterministic(some_obs(4)), rtol=1e-5, atol=1e-6
        )
    else:
        assert jnp.abs(first - other).min() > 0.0


@pytest.mark.parametrize("mode", ["explore", "stochastic"])
def test_sampling_modes_draw_one_chain(mode):
    action = act(mode)(trained_state(), some_obs(4), jax.random.key(3), counters(0))
    expected = trained_state().policy.module.sample(some_obs(4), jax.random.key(3)).action
    np.testing.assert_allclose(action, expected, rtol=1e-5, atol=1e-6)


def test_best_of_n_takes_the_candidate_with_the_highest_mean_q():
    state, obs, head = trained_state(), some_obs(4), CONFIG.critic.make_head()
    best = act("best_of_n")(state, obs, jax.random.key(4), counters(0))
    num = CONFIG.num_action_candidates
    repeated = jnp.tile(obs, (num, 1, 1))
    candidates = state.policy.module.sample(repeated, jax.random.key(4)).action

    @jax.jit
    def value(obs, action):
        return combined_value(state.critics.online, state.critics.stats, obs, action, head)

    values = np.asarray(value(repeated, candidates))
    assert np.unique(values.argmax(axis=0)).size > 1  # not the same candidate for every row
    for row in range(4):
        expected = candidates[values[:, row].argmax(), row]
        np.testing.assert_allclose(best[row], expected, rtol=1e-5, atol=1e-6)
    ordinary = act("stochastic")(state, obs, jax.random.key(4), counters(0))
    assert value(obs, best).mean() > value(obs, ordinary).mean()
