"""Descriptions of spaces as files have them: what `Spaces.of` never gives is refused."""

import numpy as np
import pytest

from dime.envs import Spaces
from dime.errors import DimeError

pytestmark = pytest.mark.promise("R9")

INF = np.inf

GOOD = {
    "name": "x",
    "observation": [{"path": ["a", 0], "shape": [2, 3], "dtype": "float32"}],
    "action_shape": [2],
    "action_dtype": "float32",
    "action_low": [-1, -2.5],
    "action_high": [1.0, 2],
}
LEAF = GOOD["observation"][0]
ODD_LEAVES = [
    *(LEAF | {"shape": shape} for shape in ([-1], ["2"], [1.5], 3, [2**40], [True], [0])),
    *(LEAF | {"shape": shape} for shape in ([1] * 33, [2**31 - 1] * 30)),
    *(LEAF | {"path": path} for path in (3, [None], [[0]], [1.5])),
    *({"shape": [2], "dtype": "float32"}, 3, None, LEAF | {"dtype": 3}),
]
DAMAGED = [
    *({}, [], None, "x", {"name": "x", "observation": 3}),
    *({k: v for k, v in GOOD.items() if k != name} for name in GOOD),
    *(GOOD | {"name": name} for name in (None, 3, [])),
    *(GOOD | {"observation": leaves} for leaves in ([], {}, "x", *([leaf] for leaf in ODD_LEAVES))),
    *(GOOD | {"action_shape": shape} for shape in ([], [3], [-2], [2.0], [0], "2", None, [2**31])),
    *(GOOD | {"action_dtype": dtype} for dtype in ("int32", "O", "<f4", None, 3, [])),
    *(GOOD | {"action_low": low} for low in ([], [0], [0, 0, 0], ["0", "0"], [None, 0], 3, "ab")),
    *(GOOD | {"action_low": [low, 0]} for low in (1, 2, -INF, np.nan, True, -(10**400), [0])),
    GOOD | {"action_low": [-1.7e308, 0], "action_high": [1.7e308, 1]},
]


def test_a_whole_description_is_taken():
    spaces = Spaces.from_json(GOOD)
    assert (spaces.obs_dim, spaces.action_dim) == (6, 2)
    assert spaces.to_env_action([1, -1]).tolist() == [1, -2.5]


@pytest.mark.parametrize("data", DAMAGED, ids=lambda data: f"{data!r:.60}")
def test_a_damaged_description_is_refused(data):
    with pytest.raises(DimeError):
        Spaces.from_json(data)
