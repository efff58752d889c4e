"""The temperature: its loss in closed form, its sign, and that it reaches its target."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.optimizers import gradient_step
from dime.updates.max_entropy import TemperatureConfig, temperature_loss


@pytest.mark.parametrize("log_temperature", [-2.0, 0.0, 1.0])
def test_loss_and_gradient_in_closed_form(log_temperature):
    running_cost, target = jnp.array([1.0, 2.0, 6.0]), 8.0
    loss, gradient = jax.value_and_grad(temperature_loss)(
        jnp.asarray(log_temperature), running_cost, target
    )
    expected = -np.exp(log_temperature) * (3.0 - 8.0)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(gradient) == pytest.approx(expected, rel=1e-5)  # d exp(x) / dx = exp(x)


@pytest.mark.parametrize("running_cost, rises", [(9.0, True), (7.0, False)])
def test_rises_while_the_running_cost_exceeds_its_target(running_cost, rises):
    # A high running cost is a low entropy: it takes a higher temperature to raise it.
    optimizer = TemperatureConfig().make_optimizer()
    log_temperature = jnp.asarray(0.0)
    gradient = jax.grad(temperature_loss)(log_temperature, jnp.full(4, running_cost), 8.0)
    stepped, _, _ = gradient_step(
        optimizer, gradient, optimizer.init(log_temperature), log_temperature
    )
    assert bool(stepped > 0.0) is rises
    assert abs(float(stepped)) == pytest.approx(1e-3, rel=1e-3)  # Adam's first step


def test_reaches_the_target_of_a_toy_problem():
    # A Gaussian policy of the optimal width sqrt(temperature / curvature) for a quadratic Q: its
    # running cost is -log(width) + constant, so the target fixes the temperature.
    curvature, target = 3.0, 1.2
    config = TemperatureConfig(initial=1.0, learning_rate=1e-2)
    optimizer = config.make_optimizer()

    def running_cost(log_temperature):
        return -0.5 * (log_temperature - jnp.log(curvature))

    def step(carry, _):
        log_temperature, state = carry
        cost = jax.lax.stop_gradient(running_cost(log_temperature)) * jnp.ones(4)
        gradient = jax.grad(temperature_loss)(log_temperature, cost, target)
        log_temperature, state, _ = gradient_step(optimizer, gradient, state, log_temperature)
        return (log_temperature, state), None

    start = jnp.log(jnp.float32(config.initial))
    (end, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=2000)
    assert float(running_cost(end)) == pytest.approx(target, abs=1e-2)
    assert float(end) == pytest.approx(np.log(curvature) - 2.0 * target, abs=2e-2)


def test_target_of_the_paper_means_this_entropy_bound():
    # E[log_prior] is -2.335 nats per dimension at prior_std 2.5, so a running cost of 4 is an
    # entropy bound of -1.665 per dimension.
    expected_log_prior = -(np.log(2.5) + 0.5 * np.log(2.0 * np.pi) + 0.5)
    bound = -(TemperatureConfig().target_running_cost_per_dim + expected_log_prior)
    assert bound == pytest.approx(-1.665, abs=1e-3)
