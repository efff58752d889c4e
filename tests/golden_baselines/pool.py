"""The codes that were run in double precision: minibatches of one pool, checks that they share.

The checks have the arguments of tests; a module gives them names that pytest finds.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.critics.critics import CriticState, critic_outputs
from dime.critics.heads import ScalarHead
from dime.diffusion.ddpm import Noise, posterior_step
from dime.optimizers import TrainState
from dime.types import Agent, EnvSpec

from .golden import (
    assert_close,
    assert_same_change,
    assert_trees_close,
    batch_from,
    compiled,
    first_gradient,
    layers_of,
    widened,
)

EXACT = 1e-6  # in double precision; what is left comes from constants in single precision
MARKS = [
    pytest.mark.promise("R15"),
    pytest.mark.usefixtures("double_precision"),
]
NOTES = {"target": (ScalarHead, "target")}
COPIES = ("slow_policy", "averaged_policy")


class Sizes(NamedTuple):
    """Of a file's environment, minibatches, networks and run."""

    obs_dim: int
    action_dim: int
    num_rows: int
    hidden_dim: int
    num_steps: int
    num_updates: int

    @classmethod
    def of(cls, golden):
        return cls(*golden.arrays["const/sizes_obs_act_batch_hidden_steps_updates"].tolist())


def spec_of(golden):
    sizes = Sizes.of(golden)
    return EnvSpec(sizes.obs_dim, sizes.action_dim, len(golden.arrays["replay/rewards"]))


def network_settings(golden, kind):
    """What a config says of the `policy` or of the `critics`, whose layers are counted."""
    return {
        "hidden_dim": Sizes.of(golden).hidden_dim,
        "num_hidden_layers": len(layers_of(golden, f"init/{kind}/layers/")) - 1,
        "max_gradient_norm": float(golden["const/max_gradient_norm"]),
    }


def array_of(golden, index, name):
    """What belongs to update `index`."""
    return golden.arrays[f"update{index}/{name}"]


def batch_of(golden, *rows):
    """The pool's transitions in these rows, one minibatch after the other."""
    index = np.concatenate(rows)
    names = ("states", "actions", "rewards", "next_states", "terminated")
    return batch_from((golden.arrays[f"replay/{name}"][index] for name in names), index)


def network_of(golden, prefix, template):
    """A network like `template`, of the sizes that the file has."""
    layers = layers_of(golden, f"{prefix}/time/") + layers_of(golden, f"{prefix}/layers/")
    leaves = widened([leaf for layer in layers for leaf in layer])
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def networks_of(golden, when, state) -> dict[str, Any]:
    """All networks of a state by their names in the file."""
    policies = {
        name: state.policy.module for name in ("policy", *COPIES) if f"{when}/{name}" in golden
    }
    critics = {name: state.critics.online for name in ("critics", "slow_critics")}
    return {
        name: network_of(golden, f"{when}/{name}", template)
        for name, template in (policies | critics).items()
    }


def state_of(golden, when, agent: Agent, config):
    """The state with the networks of the file and optimisers before their first step.

    Of anything else it has the shapes alone.
    """
    state = jax.eval_shape(agent.init, jax.random.key(0))
    networks = networks_of(golden, when, state)
    online, slow = networks.pop("critics"), networks.pop("slow_critics")
    policy = TrainState.start(networks.pop("policy"), config.policy.make_optimizer())
    optimizer = config.critic.make_optimizer().init(online)
    critics = CriticState(online, optimizer, slow=slow)
    return state._replace(policy=policy, critics=critics, **networks)


def check_losses_and_gradient_norms(golden, training):
    for index, metrics in enumerate(training.metrics):
        names = ("critic_loss", "critic_gradient_norm", "policy_loss", "policy_gradient_norm")
        for name in names:
            assert_close(
                metrics[name], golden.arrays[f"update{index}/{name}"], EXACT, f"{index}: {name}"
            )


def check_values_and_targets(golden, training, rows="rows_critics"):
    targets, outputs = training.noted["target"], jax.jit(critic_outputs)
    for index, (state, target) in enumerate(zip(training.states, targets, strict=False)):
        name = f"update{index}/"
        transition = batch_of(golden, golden.arrays[name + rows]).transition
        values = outputs(state.critics.online, transition.obs, transition.action)[..., 0]
        assert_close(values[0], golden.arrays[name + "q1"], EXACT, name + "q1")
        assert_close(values[1], golden.arrays[name + "q2"], EXACT, name + "q2")
        assert_close(np.ravel(target), golden.arrays[name + "target"], EXACT, name + "target")


def check_first_gradients(golden, training):
    """As Adam has them: scaled down to the largest norm."""
    longest = golden.arrays["const/max_gradient_norm"]
    state = training.states[1]
    for name, optimizer in [
        ("critic", state.critics.optimizer),
        ("policy", state.policy.optimizer),
    ]:
        scale = min(1.0, longest / golden.arrays[f"update0/{name}_gradient_norm"])
        found = first_gradient(jax.tree.map(np.asarray, optimizer))
        raw = network_of(golden, f"update0/{name}_gradient", found)
        expected = jax.tree.map(lambda leaf, scale=scale: scale * leaf, raw)
        assert_trees_close(found, expected, EXACT, name)


def check_networks_after_all_updates(golden, training):
    """To what PyTorch adds to a norm before it divides by it, relative to the gradients here."""
    tolerance = EXACT + 1e-6 / float(golden.arrays["const/max_gradient_norm"])
    first, last = training.states[0], training.states[-1]
    online, slow = last.critics.online, last.critics.slow
    for name, expected in networks_of(golden, "after", first).items():
        found = {"critics": online, "slow_critics": slow}.get(name)
        found = last.policy.module if name == "policy" else found
        found = getattr(last, name) if found is None else found
        before = network_of(golden, f"init/{name}", found)
        assert_same_change(before, found, expected, tolerance, name)


def check_actions(golden, agent, state, mode, name, num_draws=None):
    """The chain's draws are `name` + _noise; all count where not only the first `num_draws` do."""
    draws = {"normal": [*golden.arrays[f"act/{name}_noise"][:num_draws]]}
    act = compiled(agent.act[mode])
    action = act(draws, state, golden.arrays["act/obs"], jax.random.key(0), None)
    assert_close(action, golden.arrays[f"act/{name}"], EXACT, mode)


def check_schedule(golden, start):
    """The variances, what is left of the signal, and the factors of the posterior's step."""
    noise = Noise.of(start.policy.module.betas_of(Sizes.of(golden).num_steps))
    assert_close(noise.betas, golden.arrays["const/betas"], EXACT, "betas")
    assert_close(noise.alpha_bars, golden.arrays["const/alpha_bars"], EXACT, "alpha_bars")
    index, zeros = jnp.arange(len(noise.betas)), jnp.zeros((len(noise.betas), 1))
    small, ones = zeros + 1e-6, zeros + 1.0
    far = zeros - 1e6  # an estimate of the noise that leaves the clean action at 1
    exact = small / np.sqrt(1.0 - noise.alpha_bars)[:, None]  # one that leaves it at 0
    run = jax.jit(
        jax.vmap(lambda x, predicted, i, draw: posterior_step(x, predicted, noise, i, draw))
    )
    for name, arguments, scale in [
        ("posterior_coef_clean", (zeros, far, index, zeros), 1.0),
        ("posterior_coef_noisy", (small, exact, index, zeros), 1e-6),
        ("posterior_std", (zeros, zeros, index, ones), 1.0),
    ]:
        if f"const/{name}" in golden:
            assert_close(run(*arguments)[:, 0] / scale, golden.arrays[f"const/{name}"], EXACT, name)
