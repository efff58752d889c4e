"""Our mathematics against numbers of the authors' released code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.diffusion.controlled_sde import gaussian_log_prob, kernel_mean
from dime.networks.batch_renorm import BatchRenorm, RunningStats
from dime.optimizers import gradient_step
from dime.policies.tanh_gaussian import tanh_log_det
from dime.updates.max_entropy import temperature_loss
from tests.golden.arrays import (
    FILES,
    FOLDER,
    assert_close,
    assert_trees_close,
    backup_of,
    policy_loss,
    transition_of,
)
from tests.joint_critics import evaluate_critics, joint_critic_loss, joint_outputs

pytestmark = [pytest.mark.promise("R15"), pytest.mark.usefixtures("optimised")]


def test_there_are_golden_files():
    assert FILES, f"no golden_*.npz in {FOLDER}"


@pytest.mark.parametrize("which, observed", [("next", "next_obs"), ("pi", "obs")])
def test_chain(golden, which, observed):
    policy, obs = golden.policy("actor/"), golden[observed]
    prior_draw, noise = golden[f"{which}/chain"][0], golden[f"{which}/eps"]
    chain = policy.chain(obs, prior_draw, noise)
    sample = policy.weigh(chain)
    assert_close(chain.latents, golden[f"{which}/chain"], 5e-5)
    assert_close(sample.action, golden[f"{which}/action"], 5e-5)
    assert_close(sample.action, golden[f"{which}/official_action"], 5e-5)
    assert_close(chain.log_ratio, golden[f"{which}/log_ratio"], 2e-5)
    assert_close(tanh_log_det(chain.latents[-1]), golden[f"{which}/logdet"], 2e-5)
    for prefix in ("", "official_"):
        assert_close(sample.running_cost, golden[f"{which}/{prefix}run_cost"], 2e-5)
        assert_close(sample.log_prior, golden[f"{which}/{prefix}terminal_cost"], 2e-5)


@pytest.mark.parametrize("which, observed", [("next", "next_obs"), ("pi", "obs")])
def test_kernels_of_each_step(golden, which, observed):
    policy, latents = golden.policy("actor/"), golden[f"{which}/chain"]
    control = policy.control.bind(golden[observed], policy.num_denoising_steps)
    step_sizes = policy.step_sizes()
    assert_close(step_sizes, golden[f"{which}/eta"], 1e-6)
    dt_at_unit_dimension = (
        step_sizes / policy.diffusion_scale() * jax.nn.softplus(policy.raw_step_scale)
    )
    assert_close(dt_at_unit_dimension[:, 0], golden[f"{which}/dt"], 1e-6)
    sigma2 = policy.diffusion_scale() / jax.nn.softplus(policy.raw_step_scale)
    assert_close(sigma2, golden[f"{which}/sigma2"], 1e-6)
    assert_close(jnp.sqrt(2.0 * step_sizes), golden[f"{which}/scale"], 1e-6)
    for n, step_size in enumerate(step_sizes):
        drift = control(latents[n], jnp.asarray(n))
        mean = kernel_mean(latents[n], drift, step_size, policy.prior_std)
        undone = kernel_mean(latents[n + 1], jnp.zeros(()), step_size, policy.prior_std)
        assert_close(drift, golden[f"{which}/f"][n], 5e-5)
        assert_close(mean, golden[f"{which}/mean_fwd"][n], 5e-5)
        assert_close(undone, golden[f"{which}/mean_bwd"][n], 5e-5)
        log_denoise = gaussian_log_prob(latents[n + 1], mean, 2.0 * step_size)
        log_noise = gaussian_log_prob(latents[n], undone, 2.0 * step_size)
        assert_close(log_denoise, golden[f"{which}/log_fwd"][n], 2e-5)
        assert_close(log_noise, golden[f"{which}/log_bwd"][n], 2e-5)


@pytest.mark.parametrize("which, observed", [("next", "next_obs"), ("pi", "obs")])
def test_chain_in_double_precision(golden, which, observed):
    with jax.enable_x64(True):
        double = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)  # noqa: E731
        policy = double(golden.policy("actor/"))
        arguments = golden[observed], golden[f"{which}/chain"][0], golden[f"{which}/eps"]
        chain = policy.chain(*double(arguments))
        sample = policy.weigh(chain)
        for ours, name in [
            (chain.latents, "chain"),
            (chain.log_ratio, "log_ratio"),
            (sample.running_cost, "run_cost"),
            (sample.log_prior, "terminal_cost"),
            (sample.action, "action"),
        ]:
            expected = golden.arrays[f"{which}64/{name}"]
            np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("phase", ["cold", "warm"])
def test_critic_pass_and_target(golden, phase):
    head = golden.critic_config.make_head()
    assert_close(head.atoms, golden["z_atoms"], 1e-6)
    pairs = jnp.concatenate([golden["obs"], golden["act"]], axis=-1)
    next_pairs = jnp.concatenate([golden["next_obs"], golden["next/action"]], axis=-1)
    current, following, stats = joint_outputs(
        golden.critics("critic/"), golden.critic_stats(f"{phase}/bn_before/"), pairs, next_pairs
    )
    assert_close(jax.nn.softmax(current), golden[f"{phase}/probs_cur"], 2e-5)
    assert_close(jax.nn.softmax(following), golden[f"{phase}/probs_next"], 2e-5)
    assert_trees_close(stats, golden.critic_stats(f"{phase}/bn_after/"), 2e-6)
    assert_close(head.target(following, backup_of(golden)), golden[f"{phase}/target"], 1e-5)
    for index in range(2):
        alone = head.target(following[index : index + 1], backup_of(golden))
        assert_close(alone, golden.arrays[f"{phase}/target_per_critic64"][index], 1e-5)


@pytest.mark.parametrize("phase", ["cold", "warm"])
def test_critic_update(golden, phase):
    critics = golden.critics("critic/")
    (loss, _), gradient = jax.value_and_grad(joint_critic_loss, has_aux=True)(
        critics,
        golden.critic_stats(f"{phase}/bn_before/"),
        transition_of(golden),
        golden["next/action"],
        backup_of(golden),
        golden.critic_config.make_head(),
    )
    assert_close(loss, golden[f"{phase}/critic_loss"], 7e-6)
    recorded = golden.critics(f"{phase}/critic_grad/")
    assert_trees_close(gradient, recorded, 3e-4)
    # From the recorded gradient: where the true one is zero, Adam moves by the sign of rounding.
    optimizer = golden.critic_config.make_optimizer()
    critics, state, _ = gradient_step(optimizer, recorded, optimizer.init(critics), critics)
    assert_trees_close(critics, golden.critics(f"{phase}/critic_adam1/"), 1e-6)
    assert_trees_close(state[0].mu, golden.critics(f"{phase}/critic_adam1_m/"), 1e-6)
    assert_trees_close(state[0].nu, golden.critics(f"{phase}/critic_adam1_v/"), 1e-6)


def test_policy_update(golden):
    pairs = jnp.concatenate([golden["obs"], golden["pi/action"]], axis=-1)
    stats = golden.critic_stats("warm/bn_before/")
    outputs = evaluate_critics(golden.critics("critic/"), stats, pairs)
    assert_close(jax.nn.softmax(outputs), golden["actor_upd/probs"], 2e-5)

    policy = golden.policy("actor/")
    loss, gradient = jax.value_and_grad(policy_loss)(policy, golden)
    assert_close(loss, golden["actor_upd/loss"], 3e-6)
    assert_trees_close(gradient, golden.policy("actor_upd/grad/"), 3e-6)

    optimizer = golden.policy_config.make_optimizer()
    updated, _, _ = gradient_step(optimizer, gradient, optimizer.init(policy), policy)
    assert_trees_close(updated, golden.policy("actor_upd/adam1/"), 1.3e-5)


def test_policy_gradient_clipping_over_three_steps(golden):
    policy, recorded = golden.policy("actor/"), golden.policy("actor_upd/grad/")
    optimizer = golden.policy_config.make_optimizer()
    state = optimizer.init(policy)
    for index, scale in enumerate(golden["actor_upd/seq_scales"], start=1):
        gradient = jax.tree.map(lambda g, scale=scale: g * scale, recorded)
        policy, state, _ = gradient_step(optimizer, gradient, state, policy)
        assert_trees_close(policy, golden.policy(f"actor_upd/seq{index}/"), 1.3e-5)


def test_temperature_update(golden):
    config, log_temperature = golden.temperature_config, golden["log_ent_coef"]
    target = config.target_running_cost_per_dim * golden.size("act_dim")
    running_cost = golden["pi/run_cost"]
    assert_close(running_cost.mean(), golden["alpha/run_cost_mean"], 2e-6)
    loss, gradient = jax.value_and_grad(temperature_loss)(log_temperature, running_cost, target)
    assert_close(loss, golden["alpha/loss"], 2e-6)
    assert_close(gradient, golden["alpha/grad"], 2e-6)
    optimizer = config.make_optimizer()
    updated, _, _ = gradient_step(
        optimizer, gradient, optimizer.init(log_temperature), log_temperature
    )
    assert_close(updated, golden["alpha/log_ent_coef_after"], 2e-6)


def test_batch_renorm(batch_renorm_arrays):
    if batch_renorm_arrays is None:
        return  # an own folder of golden data need not hold this file
    arrays = {name: jnp.asarray(value) for name, value in batch_renorm_arrays.items()}
    norm = BatchRenorm(arrays["scale"].shape[0], warmup_calls=2)

    def loss(x, scale, bias, running):
        filled = jax.tree.unflatten(jax.tree.structure(norm), [scale, bias])
        y, updated = filled.train(x, running)
        return (y * arrays["w"]).sum(), (y, updated, filled(x, updated))

    running = RunningStats(arrays["mean0"], arrays["var0"], jnp.zeros((), jnp.int32))
    gradients = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)
    # Calls 3 and 5 hold columns with E[x^2]/var up to 1e5, where float32 cancels.
    tolerances = {2: (3e-5, 6e-4), 3: (2.1e-3, 5e-2), 4: (3e-5, 6e-4), 5: (2.1e-3, 5e-2)}
    for call, x in enumerate(arrays["x"]):
        tolerance, gradient_tolerance = tolerances.get(call, (3e-5, 3e-5))
        grad, (y, running, y_eval) = gradients(x, arrays["scale"], arrays["bias"], running)
        assert_close(y, arrays["y"][call], tolerance)
        assert_close(running.mean, arrays["mean"][call], 2e-6)
        assert_close(running.variance, arrays["var"][call], 2e-6)
        assert running.num_calls == arrays["steps"][call]
        assert_close(y_eval, arrays["y_eval_after"][call], 3e-5)
        assert_close(grad[0], arrays["grad_x"][call], gradient_tolerance)
        assert_close(grad[1], arrays["grad_scale"][call], 5e-3)
        assert_close(grad[2], arrays["grad_bias"][call], 3e-5)
