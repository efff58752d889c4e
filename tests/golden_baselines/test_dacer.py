"""DACER: its chain, the Gaussian critics, the estimated entropy and the noise that it drives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.algorithms.dacer.dacer import DacerConfig, NoiseConfig
from dime.algorithms.dacer.gaussian import GaussianReturn
from dime.algorithms.registry import ALGORITHMS
from dime.critics.critics import TargetCriticConfig, critic_outputs
from dime.diffusion.ddpm import Noise, variance_preserving_betas
from dime.policies.ddpm import DdpmPolicyConfig
from dime.types import Agent, Counters

from .golden import (
    Training,
    assert_close,
    assert_forward,
    assert_merged,
    assert_near_other_starts,
    assert_recorded,
    assert_same_change,
    assert_trees_close,
    compiled,
    every_array_is_read,
    fill,
    first_gradient,
    spec_of,
    stacked,
    updates_of,
    zero_state,
)

pytestmark = pytest.mark.promise("R15")
NOT_COMPARED = {
    "info*[13579]/policy_loss": "no loss is computed here where no policy update is due"
}
COUNTERS = Counters(jnp.int32(1), jnp.int32(0))
POLICY_DELAY = 2


def estimates(golden):
    """The updates in which the entropy is estimated."""
    updates = range(golden["batch/obs"].shape[0])
    return [index for index in updates if f"noise{index}/entropy_start" in golden]


def config_of(golden):
    policy = layers_of(golden, "init/policy/dacer_policy_net")
    critic = layers_of(golden, "init/q1/distributional_q_net2")
    due = estimates(golden)
    return DacerConfig(
        policy=DdpmPolicyConfig(
            num_denoising_steps=golden["betas"].shape[0],
            hidden_dim=policy[2][1].shape[-1],
            num_hidden_layers=len(policy) - 3,
            learning_rate=1e-4,
        ),
        critic=TargetCriticConfig(
            hidden_dim=critic[0][1].shape[-1],
            num_hidden_layers=len(critic) - 1,
            learning_rate=1e-4,
        ),
        noise=NoiseConfig(
            target_entropy_per_dim=float(golden["target_entropy"]) / spec_of(golden).action_dim,
            std_per_scale=0.15,
            estimate_every=due[1] - due[0],
            num_actions=golden[f"noise{due[0]}/entropy_start"].shape[0],
        ),
        policy_delay=POLICY_DELAY,
    )


def layers_of(golden, prefix):
    names = ["linear", *(f"linear_{i}" for i in range(1, 99))]
    names = [name for name in names if f"{prefix}/{name}" in golden]
    return [(golden[f"{prefix}/{name}/w"], golden[f"{prefix}/{name}/b"]) for name in names]


def policy_of(golden, when, template):
    """The denoiser, whose input is [obs, action, time] there and [action, obs, time] here."""
    layers = layers_of(golden, f"{when}/policy/dacer_policy_net")
    obs_dim, action_dim, _ = spec_of(golden)
    obs, action, time = np.split(np.asarray(layers[2][0]), [obs_dim, obs_dim + action_dim])
    layers[2] = (jnp.asarray(np.concatenate([action, obs, time])), layers[2][1])
    return fill(template, [leaf for layer in layers for leaf in layer])


def critics_of(golden, when, template, name="q"):
    def critic(index):
        layers = layers_of(golden, f"{when}/{name}{index}/distributional_q_net2")
        return [leaf for layer in layers for leaf in layer]

    return fill(template, stacked(critic(1), critic(2)))


@pytest.fixture(scope="module")
def agent(golden):
    return ALGORITHMS["dacer"].make(config_of(golden), spec_of(golden))


@pytest.fixture(scope="module")
def start(golden, agent):
    state = zero_state(agent)
    critics = state.critics._replace(
        online=critics_of(golden, "init", state.critics.online),
        slow=critics_of(golden, "init", state.critics.slow, "target_q"),
    )
    return state._replace(
        policy=state.policy._replace(module=policy_of(golden, "init", state.policy.module)),
        critics=critics,
        noise_scale=state.noise_scale._replace(log_value=golden["init/log_alpha"]),
    )


def of_recorded_actions(golden, agent):
    """The agent, whose entropy is the recorded one, and off by as much as the actions are.

    The released fit begins elsewhere, and its entropy is compared by itself.
    """
    due = estimates(golden)
    actions = np.stack([golden[f"entropy{i}/actions"] for i in range(len(due))])
    values = np.stack([golden[f"entropy{i}/value"] for i in range(len(due))])
    every = due[1] - due[0]

    def update(state, batch, key, counters):
        def entropy_of(found, num_components, key):
            number = counters.update // every
            expected = jnp.asarray(actions)[number].swapaxes(0, 1)
            return jnp.asarray(values)[number] + jnp.abs(found - expected).max()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dime.algorithms.dacer.dacer.mean_mixture_entropy", entropy_of)
            return agent.update(state, batch, key, counters)

    return Agent(agent.init, agent.act, update)


@pytest.fixture(scope="module")
def training(golden, agent, start):
    due = estimates(golden)

    def draws(index):
        """Those of the entropy stand in for those that an update without an estimate has not."""

        def chain(index, of, steps_axis):
            name = f"noise{index}/{of}_"
            steps = np.moveaxis(golden.arrays[name + "chain"], steps_axis, 0)
            return [golden[name + "start"], *steps, golden[name + "added"]]

        normal = [*chain(index, "next", 0), golden[f"noise{index}/z"], *chain(index, "policy", 0)]
        return {"normal": normal + chain(index if index in due else due[0], "entropy", 1)}

    return Training(of_recorded_actions(golden, agent), start, updates_of(golden, draws))


def test_schedule(golden):
    betas = variance_preserving_betas(golden["betas"].shape[0])
    assert_close(betas, golden["betas"], 1e-6)
    assert_close(Noise.of(betas).alpha_bars, golden["alpha_hats"], 1e-6)


def test_forward(golden, agent, start):
    def forward(state, obs, action, time):
        key = jax.random.key(0)
        first, _ = critic_outputs(state.critics.online, obs, action)
        returns = GaussianReturn.of(first)
        return {
            "q1_mean": returns.mean,
            "q1_std": returns.std,
            "eps": state.policy.module.denoiser(action, obs, time),
            "explore_action": agent.act["explore"](state, obs, key, COUNTERS),
            "evaluate_action": agent.act["observation_seeded"](state, obs[0], key, COUNTERS),
        }

    normal = [golden["forward/start"], *golden.arrays["forward/chain"], golden["forward/added"]]
    normal += [golden["forward/evaluate_start"], *golden.arrays["forward/evaluate_chain"]]
    batch = golden["batch/obs"][0], golden["batch/action"][0]
    time = golden["forward/time"]
    assert_forward(golden, compiled(forward)({"normal": normal}, start, *batch, time))


def test_losses_and_spreads(golden, training):
    for index, metrics in enumerate(training.metrics):
        of = f"info{index}/"
        if index % POLICY_DELAY == 0:
            assert_recorded(golden, f"{of}policy_loss", metrics["policy_loss"], 4e-6)
        assert_recorded(golden, f"{of}alpha", metrics["noise_std"] / np.float32(0.15), 4e-6)
        for name, merge, found in [
            ("q{}_loss", np.sum, metrics["critic_loss"]),
            ("q{}_mean", np.mean, metrics["q_mean"]),
            ("q{}_std", np.mean, metrics["q_std"]),
            ("mean_q{}_std", np.asarray, training.states[index + 1].spread),
        ]:
            assert_merged(golden, of + name, merge, found, 4e-6)


def test_first_gradients(golden, training):
    state = training.states[1]
    if "grad0/q1" in golden:
        critics = first_gradient(state.critics.optimizer)
        assert_trees_close(critics, critics_of(golden, "grad0", critics), 1e-5)
    if "grad0/policy" in golden:
        policy = first_gradient(state.policy.optimizer)
        assert_trees_close(policy, policy_of(golden, "grad0", policy), 1e-5)


def test_parameters_after_all_updates(golden, start, training):
    last, after = training.states[-1], f"after{len(training.metrics)}"
    if f"{after}/policy" in golden:
        expected = policy_of(golden, after, start.policy.module)
        assert_same_change(start.policy.module, last.policy.module, expected, what="policy")
    for name, named in [("online", "q"), ("slow", "target_q")]:
        if f"{after}/{named}1" in golden:
            before, found = (getattr(state.critics, name) for state in (start, last))
            expected = critics_of(golden, after, before, named)
            assert_same_change(before, found, expected, what=named)
    assert_recorded(golden, "after/mean_std", last.spread, 4e-6)


def test_actions_and_noise_scale(golden, training):
    """The actions that the entropy is estimated from, and what their entropy does."""
    dims = spec_of(golden).action_dim
    for index, state in enumerate(training.states[1:], 1):
        number = (index - 1) // (estimates(golden)[1] - estimates(golden)[0])
        entropy = state.entropy_per_dim * dims
        assert_close(entropy, golden[f"entropy{number}/value"], 1e-5)
        assert_recorded(golden, f"info{index - 1}/entropy", entropy, 1e-5)
        assert_recorded(golden, f"after{index}/log_alpha", state.noise_scale.log_value, 1e-6)


def test_entropy(golden):
    for number in range(len(estimates(golden))):
        actions = golden.arrays[f"entropy{number}/actions"].swapaxes(0, 1)
        assert_near_other_starts(actions, 3, golden.arrays[f"entropy{number}/value"])


test_every_array_is_read = every_array_is_read
