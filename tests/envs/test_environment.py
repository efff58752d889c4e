import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from dime.envs import Environment, NonFiniteError, make
from dime.errors import DimeError
from tests.envs.stub import Stub

NAN, INF = float("nan"), float("inf")


def run_to(environment, step, action=(0.0,)):
    environment.reset(seed=0)
    for _ in range(step):
        result = environment.step(action)
    return result


def test_one_step():
    environment = Environment(Stub())
    obs = environment.reset(seed=3)
    assert obs.dtype == np.float32 and obs.tolist() == [0.0, 0.0]
    result = environment.step(np.float32([0.5]))
    assert result.obs.dtype == np.float32 and result.obs.tolist() == [1.0, 1.0]
    assert result[1:] == (1.0, False, False, None)
    assert [type(value) for value in result[1:4]] == [float, bool, bool]
    assert environment.env.actions[0].tolist() == [1.0]  # the stub's bounds are +-2


def test_what_was_handed_out_is_not_overwritten():
    environment = Environment(Stub(observation_space=Box(-INF, INF, (2,), np.float32)))
    environment.env.buffer = np.zeros(2, np.float32)
    handed_out = [environment.reset(seed=0)] + [environment.step([0.0]).obs for _ in range(3)]
    assert [obs[0] for obs in handed_out] == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("quantity", "step", "answer"),
    [
        ("observation", 0, {"obs": np.array([0.0, NAN])}),
        ("observation", 2, {"obs": np.array([INF, 0.0])}),
        ("observation", 3, {"obs": np.array([0.0, 1e300])}),  # more than float32 can hold
        ("reward", 1, {"reward": NAN}),
        ("reward", 2, {"reward": np.float64(-INF)}),
        ("reward", 1, {"reward": 1e39}),  # infinite where it is stored, as float32
    ],
)
def test_a_non_finite_number_stops_and_is_named(quantity, step, answer):
    environment = Environment(Stub({step: answer}), "Poison-v0")
    with pytest.raises(NonFiniteError) as failure:
        run_to(environment, step)
    error = failure.value
    assert (error.quantity, error.environment, error.step) == (quantity, "Poison-v0", step)
    for word in (quantity, "Poison-v0", f"step {step}"):
        assert word in str(error)
    with pytest.raises(DimeError, match="before reset"):
        environment.step([0.0])


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_non_finite_action_never_reaches_the_environment(bad):
    environment = Environment(Stub())
    run_to(environment, 1)
    with pytest.raises(NonFiniteError, match="non-finite action .* at step 2"):
        environment.step([bad])
    assert len(environment.env.actions) == 1


@pytest.mark.parametrize(
    ("action", "words"), [([1.1], "-1, 1"), ([0.0, 0.0], r"\(1,\)"), (0.0, r"\(1,\)")]
)
def test_a_wrong_action_is_refused(action, words):
    environment = Environment(Stub())
    environment.reset(seed=0)
    with pytest.raises(DimeError, match=words):
        environment.step(action)


def test_float32_rounding_beyond_one_gives_the_bound():
    environment = Environment(Stub())
    environment.reset(seed=0)
    environment.step(np.nextafter(np.float32([1.0]), np.float32(2.0)))
    assert environment.env.actions[0].tolist() == [2.0]


@pytest.mark.parametrize(
    ("info", "success"),
    [
        ({}, None),
        ({"solved": np.bool_(True)}, True),
        ({"success": 0}, False),
        ({"success": 1.0}, True),
        ({"success": None}, None),
        ({"is_success": np.array(True)}, True),
        ({"failure": True}, None),
    ],
)
def test_success_is_what_the_environment_reports(info, success):
    assert run_to(Environment(Stub({1: {"info": info}})), 1).success is success


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_after_the_end_of_an_episode_a_reset_is_due(end):
    environment = Environment(Stub({1: {end: True}}))
    result = run_to(environment, 1)
    assert (result.terminated, result.truncated) == (end == "terminated", end == "truncated")
    with pytest.raises(DimeError, match="after the episode's end"):
        environment.step([0.0])
    environment.reset(seed=1)
    assert getattr(environment.step([0.0]), end)


def test_step_needs_a_reset():
    with pytest.raises(DimeError, match="before reset"):
        Environment(Stub()).step([0.0])


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_some_suite_would_refuse(seed):
    with pytest.raises(DimeError, match=str(seed)):
        Environment(Stub()).reset(seed=seed)


def test_an_array_of_one_number_is_a_reward():
    assert run_to(Environment(Stub({1: {"reward": np.array([2.5])}})), 1).reward == 2.5


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"reward": np.array([1.0, -1.0])}, "reward must be one number, got array([ 1., -1.])"),
        ({"reward": [1.0, -1.0]}, "reward must be one number, got [1.0, -1.0]"),
        ({"reward": None}, "reward must be one number, got None"),
        ({"reward": "3.5"}, "reward must be one number, got '3.5'"),
        ({"reward": [3.5]}, "reward must be one number, got [3.5]"),
        ({"terminated": [False]}, "terminated must be true or false, got [False]"),
        ({"truncated": "no"}, "truncated must be true or false, got 'no'"),
        ({"terminated": 0.5}, "terminated must be true or false, got 0.5"),
        ({"terminated": np.array([True, False])}, "terminated must be true or false, got array"),
        ({"info": {"success": np.zeros(2)}}, "info['success'] must be true or false, got array"),
        ({"obs": np.array(["a", "b"])}, "must be of real numbers, got dtype <U1"),
        ({"obs": np.array([1j, 0.0])}, "must be of real numbers, got dtype complex128"),
        ({"obs": np.zeros(3)}, "expected shape (2,), as its space declares, got (3,)"),
    ],
)
def test_what_another_try_cannot_mend_is_refused_in_one_line(answer, words):
    with pytest.raises(DimeError) as refusal:
        run_to(Environment(Stub({1: answer}), "Vector-v0"), 1)
    assert words in str(refusal.value) and "Vector-v0" in str(refusal.value)


def test_an_info_that_is_no_dict_reports_nothing():
    assert run_to(Environment(Stub({1: {"info": None}})), 1).success is None


def test_an_observation_with_an_axis_too_many_is_refused():
    with pytest.raises(DimeError, match=r"leading axes \(1,\)"):
        run_to(Environment(Stub({1: {"obs": np.zeros((1, 2))}})), 1)


class OldApi(Stub):
    def step(self, action):
        return np.zeros(2), 0.0, False, {}


class OlderApi(Stub):
    def reset(self, *, seed=None, options=None):
        return np.zeros(2)


@pytest.mark.parametrize(("kind", "method"), [(OldApi, "step"), (OlderApi, "reset")])
def test_the_api_of_old_gym_is_refused_by_name(kind, method):
    with pytest.raises(DimeError, match=f"{method}.. must return"):
        run_to(Environment(kind()), 1)


class Raising(Stub):
    def step(self, action):
        raise ZeroDivisionError("inside the environment")


def test_an_environments_own_error_passes_through_and_a_reset_is_due():
    environment = Environment(Raising())
    environment.reset(seed=0)
    with pytest.raises(ZeroDivisionError, match="inside the environment"):
        environment.step([0.0])
    with pytest.raises(DimeError, match="before reset"):
        environment.step([0.0])
    environment.reset(seed=0)


@pytest.mark.parametrize(
    ("id", "steps"), [("Pendulum-v1", 200), ("dm_control/pendulum-swingup", 1000)]
)
def test_a_time_limit_truncates_and_does_not_terminate(id, steps):
    environment = make(id)
    assert environment.max_episode_steps == steps
    environment.reset(seed=0)
    results = [environment.step(np.zeros(environment.action_dim)) for _ in range(steps)]
    assert [r.truncated for r in results] == [False] * (steps - 1) + [True]
    assert not any(r.terminated for r in results)


def test_a_fall_terminates_and_does_not_truncate():
    environment = make("Hopper-v5")
    environment.reset(seed=0)
    for _ in range(200):
        result = environment.step(np.ones(3))
        if result.terminated or result.truncated:
            break
    assert result.terminated and not result.truncated


@pytest.mark.parametrize(
    ("env", "steps"),
    [
        (Stub(), None),
        (gymnasium.wrappers.TimeLimit(Stub(), 7), 7),
        (gymnasium.wrappers.TransformReward(gymnasium.wrappers.TimeLimit(Stub(), 7), abs), 7),
        (gymnasium.make("Pendulum-v1", max_episode_steps=9), 9),
    ],
)
def test_the_time_limit_is_found_under_wrappers(env, steps):
    assert Environment(env).max_episode_steps == steps


@pytest.mark.parametrize("id", ["Pendulum-v1", "Ant-v5", "Humanoid-v5"])
def test_gymnasium_episodes_are_bit_for_bit_reproducible(id):
    environment = make(id)

    def episode(seed):
        actions = np.random.default_rng(seed).uniform(-1, 1, (12, environment.action_dim))
        obs = [environment.reset(seed)]
        steps = [environment.step(action) for action in actions]
        return np.stack(obs + [s.obs for s in steps]), [s.reward for s in steps]

    first, _, again, other = episode(1), episode(2), episode(1), episode(3)
    np.testing.assert_array_equal(first[0], again[0])
    assert first[1] == again[1]
    assert not np.array_equal(first[0][0], other[0][0])


def test_rendering_is_asked_for_when_the_environment_is_made():
    with pytest.raises(DimeError, match="no render mode.*render=True"):
        Environment(Stub()).render()
    assert Environment(Stub(render_mode="rgb_array")).render().tolist() == [[[7] * 3] * 6] * 4


class Broken(Stub):
    def render(self):
        raise OSError("no screen")


class Wordy(Stub):
    def render(self):
        return "a picture"


class Unpainted(Stub):
    metadata = {"render_modes": ["ansi"]}

    def render(self):
        raise NotImplementedError


def test_a_failing_render_names_the_packages_with_which_mujoco_renders():
    with pytest.raises(DimeError, match="no screen.*libegl1.*libosmesa6"):
        Environment(Broken(render_mode="rgb_array")).render()
    with pytest.raises(DimeError, match="cannot be rendered"):
        Environment(Unpainted(render_mode="rgb_array")).render()
    with pytest.raises(DimeError, match="got str"):
        Environment(Wordy(render_mode="rgb_array")).render()
