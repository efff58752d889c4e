import inspect
import pathlib
import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from dime.envs import Environment, list_environments, make, make_env, registry, suite_of
from dime.envs.environment import refuse_running_statistics
from dime.errors import DimeError
from tests import listed
from tests.envs.stub import Stub

# The thirteen environments of the paper's table 1; humanoid has 21 actions, not the table's 24.
PAPER = {
    "dm_control/dog-stand": (223, 38, 1000),
    "dm_control/dog-walk": (223, 38, 1000),
    "dm_control/dog-trot": (223, 38, 1000),
    "dm_control/dog-run": (223, 38, 1000),
    "dm_control/humanoid-stand": (67, 21, 1000),
    "dm_control/humanoid-walk": (67, 21, 1000),
    "dm_control/humanoid-run": (67, 21, 1000),
    "Ant-v3-compatible": (111, 8, 1000),
    "Humanoid-v4": (376, 17, 1000),
    "myoHandObjHoldRandom-v0": (91, 39, 75),
    "myoHandReachRandom-v0": (115, 39, 100),
    "myoHandKeyTurnRandom-v0": (93, 39, 200),
    "myoHandPenTwirlRandom-v0": (83, 39, 50),
}


@pytest.mark.parametrize("id", PAPER)
def test_the_papers_environments_have_their_sizes(id):
    environment = make(id)
    sizes = (environment.obs_dim, environment.action_dim, environment.max_episode_steps)
    assert sizes == PAPER[id]
    assert environment.name == id
    obs = environment.reset(seed=0)
    result = environment.step(np.zeros(environment.action_dim))
    assert obs.shape == result.obs.shape == (PAPER[id][0],)
    assert (result.success is not None) == id.startswith("myo")


@pytest.mark.parametrize(
    ("id", "kwargs", "obs_dim"),
    [
        ("Ant-v4", {}, 27),
        ("Ant-v4", {"use_contact_forces": True}, 111),
        ("Ant-v5", {}, 105),
        ("Humanoid-v5", {}, 348),
    ],
)
def test_kwargs_reach_the_environment(id, kwargs, obs_dim):
    assert make(id, kwargs).obs_dim == obs_dim


def test_ant_v3_is_v4_with_zeros_for_contact_forces():
    ant, v4 = make("Ant-v3-compatible"), make("Ant-v4")
    obs, plain = ant.reset(seed=5), v4.reset(seed=5)
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 8)):
        np.testing.assert_array_equal(obs, np.concatenate([plain, np.zeros(84)]))
        result, expected = ant.step(action), v4.step(action)
        assert result[1:] == expected[1:]
        obs, plain = result.obs, expected.obs
    with pytest.raises(DimeError, match="use_contact_forces"):
        make("Ant-v3-compatible", {"use_contact_forces": True})


def test_humanoids_actions_are_rescaled():
    environment = make("Humanoid-v4")
    np.testing.assert_array_equal(
        environment.spaces.to_env_action(np.ones(17)), np.full(17, 0.4, np.float32)
    )


# Names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "suite"),
    [
        ("dm_control/finger-turn_hard", "dm_control"),
        ("Ant-v4", "gymnasium"),
        ("Ant-v3-compatible", "gymnasium"),
        ("myoHandReachRandom-v0", "myosuite"),
        ("MyoHandAirplaneFly-v0", "myosuite"),
        ("myotools:Reach-v0", "gymnasium"),
        ("dime/MultiGoal-v0", "dime"),
        ("whatever", "gymnasium"),
    ],
)
def test_suites(id, suite):
    assert suite_of(id) == suite


@pytest.mark.parametrize(
    ("id", "nearest"),
    [
        ("dm_control/dog-rum", "dm_control/dog-run"),
        ("dog-run", "dm_control/dog-run"),
        ("dm_control/dog", "dm_control/dog-run"),
        ("dm_control/finger-turn-hard", "dm_control/finger-turn_hard"),
        ("HalfCheetah", "HalfCheetah-v5"),
        ("Ant-v7", "Ant-v5"),
        ("humanoid-v4", "Humanoid-v4"),
        ("myoHandReachRnadom-v0", "myoHandReachRandom-v0"),
        ("dime/MultiGoals-v0", "dime/MultiGoal-v0"),
        ("multigoal-v0", "dime/MultiGoal-v0"),
    ],
)
def test_an_unknown_id_is_answered_with_the_nearest(id, nearest):
    with pytest.raises(DimeError) as refusal:
        make_env(id)
    text = str(refusal.value)
    assert f"no environment {id!r}" in text
    assert nearest in text.partition("Nearest: ")[2]


def test_nothing_near_is_said_so():
    with pytest.raises(DimeError, match="Nearest: none.*module:xqzw"):
        make_env("xqzw")


def test_the_lists_are_what_can_be_made():
    lists = list_environments()
    assert set(lists) == {"dm_control", "gymnasium", "myosuite", "playground", "dime"}
    for suite, ids in lists.items():
        assert len(set(ids)) == len(ids)
        if suite != "myosuite":  # also lists a few motorFinger tasks
            assert {suite_of(id) for id in ids} == {suite}
    for id in [*lists["gymnasium"], *lists["dime"]]:
        environment = make(id)
        environment.reset(seed=0)
        environment.step(np.zeros(environment.action_dim))
        environment.close()
    for suite in (listed.dm_control, listed.myosuite):
        assert lists[suite.__name__] == suite(), "python -m tests.listed regenerates it"
    assert {id for id in PAPER if id.startswith("dm_control")} <= set(lists["dm_control"])
    assert {id for id in PAPER if id.startswith("myo")} <= set(lists["myosuite"])
    assert not [id for id in lists["dm_control"] if "lqr" in id]


def test_a_suite_that_is_added_by_half_is_named(monkeypatch):
    monkeypatch.setattr(registry, "suite_of", lambda id: "mine")
    with pytest.raises(DimeError, match="no suite in _MAKERS 'mine'"):
        make_env("mine/task", size=3)
    monkeypatch.setitem(registry._MAKERS, "json", None)  # a module that is installed
    with pytest.raises(DimeError, match="no suite in tests/listed.py 'json'"):
        list_environments()


# Suites and modules that are not there -----------------------------------------------------------


def test_a_missing_myosuite_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "myosuite", None)
    with pytest.raises(DimeError, match=r"pip install 'dime-rl\[myo\]'"):
        make_env("myoHandReachRandom-v0")
    assert "myosuite" not in list_environments()


def test_what_gymnasium_lacks_is_said_in_its_words(monkeypatch):
    monkeypatch.setitem(sys.modules, "Box2D", None)
    with pytest.raises(DimeError, match="Box2D"):
        make_env("LunarLanderContinuous-v3")


def test_a_missing_module_is_named():
    with pytest.raises(DimeError, match="importing the module 'no_such_module' failed"):
        make_env("no_such_module:Reach-v0")


MODULE = """
import gymnasium
from tests.envs.stub import Stub
gymnasium.register("FromModule-v0", Stub)
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "user_envs.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "user_envs"
    gymnasium.registry.pop("FromModule-v0", None)
    sys.modules.pop("user_envs", None)


def test_a_users_module_is_imported(user_module):
    environment = make(f"{user_module}:FromModule-v0")
    assert environment.reset(seed=0).tolist() == [0.0, 0.0]
    with pytest.raises(DimeError, match="user_envs:FromMdule-v0.*Nearest: FromModule-v0"):
        make(f"{user_module}:FromMdule-v0")


# Running statistics ------------------------------------------------------------------------------


class OwnStatistics(Stub):
    def __init__(self):
        super().__init__()
        self.by_key = {"speed": gymnasium.wrappers.utils.RunningMeanStd()}


class RunningTask:
    """No statistics, in spite of its name and of this."""

    mean = var = count = 0.0


class OrdinaryObjects(Stub):
    def __init__(self):
        super().__init__()
        self.task = RunningTask()


def normalised(update=True):
    env = gymnasium.wrappers.NormalizeObservation(Stub())
    env.update_running_mean = update
    return gymnasium.wrappers.TimeLimit(env, 5)


def rewarded():
    return gymnasium.wrappers.NormalizeReward(gymnasium.wrappers.ClipAction(Stub()))


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (normalised, "NormalizeObservation keeps running statistics (obs_rms)"),
        (rewarded, "NormalizeReward keeps running statistics (return_rms)"),
        (OwnStatistics, "OwnStatistics keeps running statistics (by_key)"),
    ],
)
def test_running_statistics_are_refused_with_what_to_do(factory, words, monkeypatch):
    spec = gymnasium.envs.registration.EnvSpec("Normed-v0", factory)
    monkeypatch.setitem(gymnasium.registry, "Normed-v0", spec)
    for source in (factory, "Normed-v0"):
        with pytest.raises(DimeError) as refusal:
            make(source)
        assert words in str(refusal.value) and "TransformObservation" in str(refusal.value)


def test_running_statistics_are_refused_in_a_process_too():
    with pytest.raises(DimeError, match="NormalizeObservation keeps running statistics"):
        make(normalised, process_timeout_s=60.0)


def test_objects_that_are_no_statistics_pass():
    assert make(OrdinaryObjects).obs_dim == 2


class Slotted:
    __slots__ = ()


def test_a_layer_without_a_dict_passes():
    assert refuse_running_statistics(Slotted(), "slotted")


def test_statistics_that_no_longer_run_pass():
    assert make(normalised, {"update": False}).obs_dim == 2


# kwargs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "kwargs", "words"),
    [
        ("Ant-v5", {"use_forces": 1}, ["'use_forces': 1", "unexpected keyword"]),
        ("Ant-v5", {"xml_file": "nope.xml"}, ["nope.xml", "does not exist"]),
        ("dm_control/dog-run", {"speed": 3}, ["'speed': 3", "unexpected keyword"]),
        ("dm_control/dog-run", {"environment_kwargs": {"x": 1}}, ["'x': 1", "unexpected keyword"]),
        ("myoHandReachRandom-v0", {"speed": 3}, ["'speed': 3", "unused"]),
        ("dime/MultiGoal-v0", {"goals": 5}, ["'goals': 5", "unexpected keyword"]),
    ],
)
def test_wrong_kwargs_are_answered_with_what_the_environment_says(id, kwargs, words):
    with pytest.raises(DimeError) as refusal:
        make(id, kwargs)
    for word in [id, *words]:
        assert word in str(refusal.value)


def needy(size, *, colour, depth=1, **kwargs):
    return Stub(**kwargs)


def inner(**kwargs):
    return needy(**kwargs)


@pytest.mark.parametrize("creator", [needy, inner])
def test_arguments_that_an_id_needs_are_named(creator, monkeypatch):
    spec = gymnasium.envs.registration.EnvSpec("Needy-v0", creator, kwargs={"depth": 2})
    monkeypatch.setitem(gymnasium.registry, "Needy-v0", spec)
    for given in ({}, {"depth": 3}):
        with pytest.raises(DimeError, match="missing .*'size'"):
            make("Needy-v0", given)
    with pytest.raises(DimeError, match="missing .*'colour'"):
        make("Needy-v0", {"size": 1})
    with pytest.raises(DimeError, match="missing .*'size'"):
        make(needy)
    assert make("Needy-v0", {"size": 1, "colour": 2}).obs_dim == 2


def test_an_id_without_a_render_mode_says_so(monkeypatch):
    spec = gymnasium.envs.registration.EnvSpec("Blind-v0", lambda: Stub())
    monkeypatch.setitem(gymnasium.registry, "Blind-v0", spec)
    with pytest.raises(DimeError, match="Blind-v0 could not be made .*'render_mode'"):
        make("Blind-v0", render=True)


def failing(**kwargs):
    raise ValueError("inside the environment")


def test_an_environments_own_error_passes_through(monkeypatch):
    spec = gymnasium.envs.registration.EnvSpec("Failing-v0", failing)
    monkeypatch.setitem(gymnasium.registry, "Failing-v0", spec)
    with pytest.raises(ValueError, match="inside the environment"):
        make("Failing-v0")
    with pytest.raises(DimeError, match="{'a': 1}: inside the environment"):
        make("Failing-v0", {"a": 1})


# Factories ---------------------------------------------------------------------------------------


unchecked = inspect.unwrap(make)  # without the types that are checked in tests only


def test_a_factory_makes_environments():
    environment = make(lambda limit: gymnasium.wrappers.TimeLimit(Stub(), limit), {"limit": 4})
    assert isinstance(environment, Environment)
    assert environment.max_episode_steps == 4 and environment.name == "Stub"
    assert make(Stub).env is not make(Stub).env


def test_a_factory_gets_render_mode_if_it_takes_it():
    assert make(Stub, render=True).render().shape == (4, 6, 3)
    assert make(lambda **kwargs: Stub(**kwargs), render=True).env.render_mode == "rgb_array"
    assert make(lambda: Stub(), render=True).env.render_mode is None


@pytest.mark.parametrize(
    ("factory", "kwargs", "words"),
    [
        (lambda: 3, {}, "must return a gymnasium.Env, got int"),
        (lambda: Stub, {}, "must return a gymnasium.Env, got "),
        (Stub(), {}, "function that returns a new one"),
        (Stub, {"answer": {}}, "Stub could not be made with env_kwargs {'answer': {}}"),
    ],
)
def test_factories_that_are_refused(factory, kwargs, words):
    with pytest.raises(DimeError) as refusal:
        unchecked(factory, kwargs)
    assert words in str(refusal.value)


def test_a_factorys_own_error_passes_through():
    def factory():
        raise TypeError("inside the factory")

    with pytest.raises(TypeError, match="inside the factory"):
        make(factory)


# What is printed ---------------------------------------------------------------------------------


def test_a_users_own_warning_is_passed_on():
    with pytest.warns(UserWarning, match="from the environment"):
        with registry.tidy_warnings():
            import warnings

            warnings.warn("from the environment", stacklevel=1)
            warnings.warn("WARN: from gymnasium", stacklevel=1)


def test_importing_the_layer_is_quick_and_brings_no_simulator():
    code = "import sys, dime.envs; print([m for m in sys.modules if '.' not in m])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    loaded = eval_names(result.stdout)
    assert result.stderr == ""
    heavy = {"jax", "mujoco", "dm_control", "myosuite", "matplotlib", "equinox", "OpenGL"}
    assert heavy.isdisjoint(loaded) and "gymnasium" in loaded


def eval_names(text):
    return {name.strip(" '[]\n") for name in text.split(",")}


def test_the_examples_of_the_page_run(capsys):
    page = pathlib.Path(__file__).parents[2] / "docs" / "environments.md"
    examples = page.read_text().split("```python\n")[1:]
    assert len(examples) == 3
    for example in examples[:2]:  # the third trains; it runs with those of all documents
        exec(example.partition("```")[0], {})
    assert capsys.readouterr().out.splitlines()[-1] == "20 False True"
