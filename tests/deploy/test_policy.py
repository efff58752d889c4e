"""A loaded policy: observations in, actions out, both as the environment has them."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dime
from dime.deploy.policy import restore_agents
from dime.errors import DimeError
from tests.joint_critics import combined_value
from tests.training.runs import checkpoints, start
from tests.training.walk import Walk, at, walks

LOW, HIGH = np.array([-2.0, 0.0]), np.array([5.0, 0.5])
MODES = ["stochastic", "deterministic", "best_of_n"]


class InItsOwnWords(gymnasium.Wrapper):
    """Walk with a dict of observations, and with actions in units of its own, as a 2 x 1 matrix."""

    def __init__(self, env):
        super().__init__(env)
        box = gymnasium.spaces.Box
        part = box(-np.inf, np.inf, (1,), np.float64)
        self.observation_space = gymnasium.spaces.Dict({"y": part, "x": part})
        self.action_space = box(LOW[:, None], HIGH[:, None], dtype=np.float64)
        self.taken = []

    def _told(self, obs):
        return {"y": obs[1:].astype(np.float64), "x": obs[:1].astype(np.float64)}

    def reset(self, **arguments):
        obs, info = self.env.reset(**arguments)
        self.aux = self._told(obs)
        return self.aux, info

    def step(self, action):
        assert action in self.action_space
        self.taken.append((self.aux, action))
        unit = 2.0 * (action[:, 0] - LOW) / (HIGH - LOW) - 1.0
        obs, *rest = self.env.step(unit)
        self.aux = self._told(obs)
        return self.aux, *rest


def make_own():
    made.append(InItsOwnWords(Walk()))
    return made[-1]


made = []


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A run on it."""
    folder = tmp_path_factory.mktemp("own") / "run"
    assert start(folder, make_own).state == "finished"
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run of the seeds 0, 1 and 2, of which 1 failed."""
    folder = tmp_path_factory.mktemp("three") / "run"

    def broken():
        raise RuntimeError

    start(folder, walks(at(1, 8, broken)), seeds=[0, 1, 2])
    return folder


OBS = np.array([0.1, -0.4], np.float32)
BATCH = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)


@pytest.mark.parametrize("mode", MODES)
def test_one_observation_and_batches(straight, mode):
    policy = dime.load_policy(straight, mode)
    for obs, shape in (
        (OBS, (2,)),
        (BATCH[0], (5, 2)),
        (BATCH, (3, 5, 2)),
        (BATCH[:, :0], (3, 0, 2)),
    ):
        action = policy(obs)
        assert (action.shape, action.dtype) == (shape, np.float32)
        assert (np.abs(action) <= 1.0).all()
    assert policy.mode == mode
    assert (policy.seed, policy.env_step) == (0, 48)


def test_deterministic_actions_are_those_of_the_observation(straight):
    policy = dime.load_policy(straight, "deterministic")
    batch = policy(BATCH)
    np.testing.assert_array_equal(batch, policy(BATCH))
    for i, j in np.ndindex(3, 5):
        np.testing.assert_allclose(policy(BATCH[i, j]), batch[i, j], rtol=1e-5, atol=1e-6)
    assert len(np.unique(batch)) == batch.size


@pytest.mark.parametrize("mode", ["stochastic", "best_of_n"])
def test_other_actions_are_drawn_anew_at_each_call_and_place(straight, mode):
    policy = dime.load_policy(straight, mode)
    same = np.broadcast_to(OBS, (50, 2))
    calls = np.stack([policy(same) for _ in range(3)])
    assert len(np.unique(calls[..., 0])) > 140  # squashed ones may coincide at the bounds
    again = dime.load_policy(straight, mode)
    np.testing.assert_array_equal(np.stack([again(same) for _ in range(3)]), calls)
    other = dime.load_policy(straight, mode, noise_seed=1)
    assert (other(same) != calls[0]).any()


def test_best_of_n_takes_better_ones(dime_run):
    """By the critics' own word, on average."""
    restored = restore_agents(dime_run)
    head = restored.config.settings.critic.make_head()
    obs = np.random.default_rng(1).normal(size=(400, 2)).astype(np.float32)
    state = jax.tree.map(lambda leaf: leaf[0], restored.state)
    values = {}
    for mode in ("stochastic", "best_of_n"):
        action = dime.load_policy(dime_run, mode)(obs)
        pairs = jnp.asarray(obs), jnp.asarray(action)
        value = combined_value(state.critics.online, state.critics.stats, *pairs, head)
        values[mode] = float(np.mean(value))
    assert values["best_of_n"] > values["stochastic"]


def test_the_environments_own_observations_and_units(own):
    policy = dime.load_policy(own, "deterministic")
    obs = {"y": np.array([-0.4]), "x": np.array([0.1])}
    action = policy(obs)
    assert (action.shape, action.dtype) == ((2, 1), np.float64)
    assert (action[:, 0] >= LOW).all() and (action[:, 0] <= HIGH).all()
    batch = {"y": np.full((3, 1), -0.4), "x": np.full((3, 1), 0.1)}
    np.testing.assert_allclose(policy(batch), np.stack([action] * 3), rtol=1e-5)
    swapped = {"y": np.array([0.1]), "x": np.array([-0.4])}
    assert (policy(swapped) != action).any()
    with pytest.raises(DimeError, match=r"at y: expected shape \(1,\)"):
        policy({"y": np.zeros((3, 3)), "x": np.zeros((3, 1))})
    with pytest.raises(DimeError, match="has no array at x"):
        policy({"y": np.zeros(1)})


def test_an_evaluation_takes_the_actions_that_the_policy_gives(own):
    made.clear()
    dime.evaluate(own, "deterministic", env=make_own, episodes=1)
    (environment,) = made
    policy = dime.load_policy(own, "deterministic")
    assert len(environment.taken) > 2
    for obs, action in environment.taken:
        np.testing.assert_allclose(policy(obs), action, rtol=1e-5, atol=1e-6)


def test_which_seed(two):
    policies = [dime.load_policy(two, "deterministic", seed=seed) for seed in (None, 0, 2)]
    assert [policy.seed for policy in policies] == [0, 0, 2]
    np.testing.assert_array_equal(policies[0](OBS), policies[1](OBS))
    assert (policies[1](OBS) != policies[2](OBS)).any()
    for seed in (1, 3):  # failed, and never there
        with pytest.raises(DimeError, match=rf"has no seed {seed} .* there are \[0, 2\]"):
            dime.load_policy(two, seed=seed)


def test_which_checkpoint(straight):
    older, newest = checkpoints(straight)
    policies = [
        dime.load_policy(straight, "deterministic", checkpoint=path)
        for path in (None, newest, older)
    ]
    assert [policy.env_step for policy in policies] == [48, 48, 45]
    np.testing.assert_array_equal(policies[0](OBS), policies[1](OBS))
    assert (policies[0](OBS) != policies[2](OBS)).any()


def test_an_unknown_mode_is_refused(straight):
    with pytest.raises(DimeError, match="no mode 'determinstic'; nearest: deterministic"):
        dime.load_policy(straight, "determinstic")
    with pytest.raises(DimeError, match="There is no mode 'explore'"):
        dime.load_policy(straight, "explore")


def test_what_is_no_run_or_has_no_checkpoint_is_refused(tmp_path, straight):
    with pytest.raises(DimeError, match="is not a run"):
        dime.load_policy(tmp_path)
    (tmp_path / "config.json").write_text((straight / "config.json").read_text())
    with pytest.raises(DimeError, match="has no checkpoint yet"):
        dime.load_policy(tmp_path)


def test_observations_that_do_not_fit_are_refused(straight):
    policy = dime.load_policy(straight)
    with pytest.raises(DimeError, match=r"expected shape \(2,\)"):
        policy(np.zeros(3))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_an_observation_that_is_not_finite_is_refused(straight, bad):
    policy = dime.load_policy(straight, "deterministic")
    obs = np.full(policy.spaces.obs_dim, bad)
    with pytest.raises(DimeError, match="NaN or infinite"), np.errstate(over="ignore"):
        policy(obs)
