import json

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Sequence, Text, Tuple
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dime.envs import Environment, Spaces
from dime.errors import DimeError
from tests.envs.stub import Stub

pytestmark = pytest.mark.promise("R9")

INF = np.inf


def f32(*rows):
    return np.array(rows, np.float32)


def spaces_of(observation_space=None, action_space=None):
    env = Stub(observation_space=observation_space, action_space=action_space)
    return Spaces.of(env, "Stub-v0")


UNSUPPORTED = [Discrete(2), MultiDiscrete([2, 3]), MultiBinary(4), Text(3), Sequence(Box(-1, 1))]


@st.composite
def action_boxes(draw):
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=3))
    largest = 2.0**15 if dtype == np.float16 else 2.0**100
    elements = st.floats(-largest, largest, width=np.dtype(dtype).itemsize * 8)
    low = draw(hnp.arrays(dtype, shape, elements=elements))
    high = draw(hnp.arrays(dtype, shape, elements=elements))
    low, high = np.minimum(low, high), np.maximum(low, high)
    high = np.where(low < high, high, np.nextafter(low, dtype(INF))).astype(dtype)
    return Box(low, high, shape, dtype)


@st.composite
def observation_spaces(draw, depth=2):
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=3))
    dtype = draw(st.sampled_from([np.float32, np.float64, np.uint8, np.int32]))
    leaf = Box(0, 100, shape, dtype)
    kind = draw(st.sampled_from(["leaf", "dict", "tuple"])) if depth else "leaf"
    if kind == "leaf":
        return leaf
    parts = draw(st.lists(observation_spaces(depth=depth - 1), min_size=1, max_size=3))
    if kind == "tuple":
        return Tuple(parts)
    return Dict([(name, part) for name, part in zip("zay", parts, strict=False)])


# What is accepted ------------------------------------------------------------------------------


@given(action_boxes())
def test_the_ends_of_the_range_are_the_bounds_exactly(box):
    spaces = spaces_of(action_space=box)
    ones = np.ones(spaces.action_dim, np.float32)
    low, high = spaces.to_env_action(-ones), spaces.to_env_action(ones)
    assert low.dtype == box.dtype and low.shape == box.shape
    np.testing.assert_array_equal(low, box.low)
    np.testing.assert_array_equal(high, box.high)
    np.testing.assert_array_equal(spaces.from_env_action(box.low), -ones)
    np.testing.assert_array_equal(spaces.from_env_action(box.high), ones)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_ends_are_exact_also_in_narrow_boxes_far_from_zero(dtype):
    rng = np.random.default_rng(0)
    mantissa, exponent = rng.choice([-1.0, 1.0, 1.2], 20_000), rng.integers(-9, 30, 20_000)
    low = high = np.ldexp(mantissa, exponent).astype(dtype)
    for _ in range(5):  # a few representable numbers to both sides, across powers of two
        low = np.where(rng.random(low.size) < 0.5, np.nextafter(low, dtype(-INF)), low)
        high = np.where(rng.random(low.size) < 0.5, np.nextafter(high, dtype(INF)), high)
    high = np.where(high > low, high, np.nextafter(low, dtype(INF)))
    spaces = spaces_of(action_space=Box(low, high, dtype=dtype))
    ones = np.ones(low.size)
    np.testing.assert_array_equal(spaces.to_env_action(-ones), low)
    np.testing.assert_array_equal(spaces.to_env_action(ones), high)
    np.testing.assert_array_equal(spaces.from_env_action(low), -ones)
    np.testing.assert_array_equal(spaces.from_env_action(high), ones)


@given(action_boxes(), st.floats(-1.5, 1.5, width=32), st.floats(-1.5, 1.5, width=32))
def test_rescaling_stays_inside_the_box_and_keeps_the_order(box, first, second):
    spaces = spaces_of(action_space=box)
    small, large = (
        spaces.to_env_action(np.full(spaces.action_dim, value)) for value in sorted((first, second))
    )
    assert box.contains(small) and box.contains(large)
    assert (small <= large).all()


@given(hnp.arrays(np.float32, 3, elements=st.floats(-1, 1, width=32)))
def test_there_and_back_is_the_same_action(action):
    spaces = spaces_of(action_space=Box(f32(-1, 0.5, -40), f32(1, 2.5, 10)))
    back = spaces.from_env_action(spaces.to_env_action(action))
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, action, atol=3e-7)


@given(hnp.arrays(np.float64, 2, elements=st.floats(-1, 1)))
def test_bounds_of_one_leave_the_action_as_it_is(action):
    spaces = spaces_of(action_space=Box(-1.0, 1.0, (2,), np.float64))
    np.testing.assert_array_equal(spaces.to_env_action(action), action)


def test_rescaling_by_hand():
    spaces = spaces_of(action_space=Box(f32([-0.4, 0]), f32([0.4, 10])))
    np.testing.assert_allclose(spaces.to_env_action([0.5, -0.5]), [[0.2, 2.5]], rtol=1e-6)
    batch = spaces.to_env_action(np.zeros((5, 2)))
    assert batch.shape == (5, 1, 2)
    assert spaces.from_env_action(batch).shape == (5, 2)


def test_nan_survives_rescaling_so_that_it_is_seen():
    assert np.isnan(spaces_of().to_env_action([np.nan])).all()


@given(observation_spaces(), st.integers(0, 2**31))
def test_flattening_is_gymnasiums_flattening_in_float32(space, seed):
    space.seed(seed)
    spaces = spaces_of(space)
    obs = space.sample()
    flat = spaces.flatten(obs)
    assert flat.dtype == np.float32 and flat.shape == (spaces.obs_dim,)
    expected = gymnasium.spaces.flatten(space, obs)
    np.testing.assert_array_equal(flat, np.asarray(expected).astype(np.float32))


NESTED = Dict(
    [
        ("b", Tuple([Box(-1, 1, (), np.float64), Box(-INF, INF, (2, 2), np.float32)])),
        ("a", Box(0, 255, (3,), np.uint8)),
    ]
)


def flat_leaves(row):
    return row["a"], row["b"][0], row["b"][1]


def test_a_batch_is_its_rows():
    spaces = spaces_of(NESTED)
    rows = [NESTED.sample() for _ in range(6)]
    stacked = [np.stack(part) for part in zip(*(flat_leaves(row) for row in rows), strict=True)]
    a, b0, b1 = (part.reshape(2, 3, *part.shape[1:]) for part in stacked)
    loop = np.stack([spaces.flatten(row) for row in rows])
    np.testing.assert_array_equal(spaces.flatten({"a": a, "b": (b0, b1)}), loop.reshape(2, 3, 8))


def test_leaves_stand_in_the_spaces_own_order():
    spaces = spaces_of(NESTED)
    assert [leaf.path for leaf in spaces.observation] == [("b", 0), ("b", 1), ("a",)]
    obs = {"a": np.array([5, 6, 7], np.uint8), "b": (0.0, np.arange(1, 5).reshape(2, 2))}
    assert spaces.flatten(obs).tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_flattening_never_hands_out_the_environments_array():
    obs = np.zeros(2, np.float32)
    flat = spaces_of(Box(-1, 1, (2,), np.float32)).flatten(obs)
    assert not np.shares_memory(flat, obs)


@given(observation_spaces(), action_boxes())
def test_a_json_file_brings_back_the_same_spaces(observation_space, action_space):
    spaces = spaces_of(observation_space, action_space)
    loaded = Spaces.from_json(json.loads(json.dumps(spaces.to_json())))
    assert loaded == spaces
    action = np.linspace(-1, 1, spaces.action_dim)
    np.testing.assert_array_equal(loaded.to_env_action(action), spaces.to_env_action(action))


# What is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (Discrete(2), ["action space Discrete(2)", "Box"]),
        (MultiDiscrete([2, 3]), ["MultiDiscrete"]),
        (MultiBinary(4), ["MultiBinary(4)"]),
        (Dict(a=Box(-1, 1)), ["Dict"]),
        (Tuple([Box(-1, 1)]), ["Tuple"]),
        (Text(3), ["Text"]),
        (Box(0, 5, (2,), np.int64), ["int64", "float32"]),
        (Box(0, 255, (2,), np.uint8), ["uint8"]),
        (Box(-INF, INF, (2,)), ["not finite", "-inf"]),
        (Box(0, INF, (2,)), ["not finite", "inf"]),
        (Box(-INF, 0, (2,)), ["not finite", "-inf"]),
        (Box(f32(0, -INF), f32(1, 1)), ["not finite", "index (1,)"]),
        (Box(-1.5e308, 1.5e308, (1,), np.float64), ["not finite"]),
        (Box(1.0, 1.0, (2,)), ["lower bound", "[1.0, 1.0]", "index (0,)"]),
        (Box(f32([0, 0], [0, 0]), f32([1, 1], [0, 1])), ["lower bound", "index (1, 0)"]),
        (Box(-1, 1, (0,)), ["action space of 0 numbers"]),
        (Box(-1, 1, (2, 0)), ["action space of 0 numbers"]),
    ],
)  # fmt: skip
def test_action_spaces_that_are_refused(space, words):
    with pytest.raises(DimeError) as refusal:
        spaces_of(action_space=space)
    for word in ["Stub-v0", "docs/environments.md", *words]:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (Discrete(5), ["Discrete(5)"]),
        (Dict(a=Box(-1, 1), b=Discrete(3)), ["Discrete(3)", "at b"]),
        (Tuple([Box(-1, 1), Dict(c=MultiBinary(3))]), ["MultiBinary", "at 1/c"]),
        (Sequence(Box(-1, 1)), ["Sequence"]),
        (Text(3), ["Text"]),
        (Box(-1, 1, (0,)), ["observation space of 0 numbers"]),
        (Dict({}), ["observation space of 0 numbers"]),
        (Tuple([Box(-1, 1, (3, 0))]), ["observation space of 0 numbers"]),
    ],
)
def test_observation_spaces_that_are_refused(space, words):
    with pytest.raises(DimeError) as refusal:
        spaces_of(space)
    for word in ["Stub-v0", "docs/environments.md", *words]:
        assert word in str(refusal.value)


def test_the_remedy_for_discrete_parts_works():
    env = Stub(observation_space=Dict(a=Box(-1, 1, (2,)), b=Discrete(3)))
    env.answers = {0: {"obs": {"a": np.zeros(2), "b": 2}}}
    environment = Environment(gymnasium.wrappers.FlattenObservation(env))
    assert environment.reset(seed=0).tolist() == [0, 0, 0, 0, 1]


def test_cartpole_is_refused_in_words_a_user_can_act_on():
    env = gymnasium.make("CartPole-v1")
    with pytest.raises(DimeError) as refusal:
        Spaces.of(env, "CartPole-v1")
    assert str(refusal.value) == (
        "CartPole-v1 has the action space Discrete(2); a Box of real numbers with finite bounds is "
        "needed. See docs/environments.md."
    )


@pytest.mark.parametrize(
    ("obs", "words"),
    [
        ({"a": np.zeros(3)}, ["at b/0", "KeyError"]),
        ({"a": np.zeros(3), "b": (0.0,)}, ["at b/1", "IndexError"]),
        ({"a": np.zeros(4), "b": (0.0, np.zeros((2, 2)))}, ["at a", "(3,)", "got (4,)"]),
        ({"a": np.zeros((5, 3)), "b": (0.0, np.zeros((2, 2)))}, ["at a", "(3,)", "(5, 3)"]),
        (
            {"a": np.zeros((5, 3)), "b": (np.zeros(5), np.zeros((4, 2, 2)))},
            ["at b/1", "(2, 2) after the batch axes (5,)", "got (4, 2, 2)"],
        ),
        (3.0, ["at b/0", "TypeError"]),
        ({"a": np.zeros(3), "b": (0.0, [[1.0], [1.0, 2.0]])}, ["at b/1", "ValueError"]),
    ],
)
def test_observations_of_another_shape_are_refused(obs, words):
    with pytest.raises(DimeError) as refusal:
        spaces_of(NESTED).flatten(obs)
    for word in ["Stub-v0", *words]:
        assert word in str(refusal.value)


@pytest.mark.parametrize("action", [0.0, np.zeros(2), np.zeros((1, 2))])
def test_actions_of_another_shape_are_refused(action):
    with pytest.raises(DimeError, match=r"expected shape \(1,\)"):
        spaces_of().to_env_action(action)
    with pytest.raises(DimeError, match=r"expected shape \(1,\)"):
        spaces_of().from_env_action(action)


@given(observation_spaces(), st.sampled_from(UNSUPPORTED), st.data())
def test_one_part_that_is_no_box_anywhere_is_refused(space, odd, data):
    for _ in range(data.draw(st.integers(0, 2))):
        odd = data.draw(st.sampled_from([Dict(a=odd), Tuple([odd]), Dict(z=space, a=odd)]))
    whole = data.draw(st.sampled_from([odd, Tuple([space, odd]), Dict(a=space, b=odd)]))
    with pytest.raises(DimeError, match="can be observed"):
        spaces_of(whole)
    with pytest.raises(DimeError, match="a Box of real numbers with finite bounds is needed"):
        spaces_of(action_space=odd)
