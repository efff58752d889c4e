"""What the records of the algorithms say of the evaluations of their policies' networks."""

import pytest

from dime.algorithms.registry import ALGORITHMS
from dime.training.config import replace_nested

# By hand. Chains of 16, 20, 15, 100, 20, 5: for the target, and for the policy's objective.
EVALUATIONS = {
    "dime": (16, 32),
    "dime-gaussian": (1, 2),
    "dime-gb": (32, 64),
    "sac": (2, 2),
    "crossq": (1, 2),
    "bro": (4, 4),
    "bro-fast": (4, 4),
    "dacer": (20, 20 + 20 + 200 * 20),
    "qsm": (15 + 1, 15 + 1),
    "dipo": (100 + 1, 100 + 1),
    "qvpo": (4 * 20 + 64 * 20 + 11, 4 * 20 + 64 * 20 + 11),
    "diffusion-ql": (10, 10),
    "consistency-ac": (10, 10),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_record_has_them(name):
    algorithm = ALGORITHMS[name]
    least, most = algorithm.network_evaluations(algorithm.config())
    assert 1 <= least <= most


@pytest.mark.parametrize("name", EVALUATIONS)
def test_network_evaluations(name):
    algorithm = ALGORITHMS[name]
    assert algorithm.network_evaluations(algorithm.config()) == EVALUATIONS[name]


@pytest.mark.parametrize("name, expected", [("dime", (3, 6)), ("dacer", (3, 606)), ("qsm", (4, 4))])
def test_network_evaluations_follow_the_settings(name, expected):
    algorithm = ALGORITHMS[name]
    settings = replace_nested(algorithm.config(), {"policy": {"num_denoising_steps": 3}})
    assert algorithm.network_evaluations(settings) == expected


@pytest.mark.parametrize("name", ["dime", "dime-gb"])
def test_they_are_not_known_for_several_chains_per_state(name):
    settings = replace_nested(ALGORITHMS[name].config(), {"objective": "log-variance"})
    assert ALGORITHMS[name].network_evaluations(settings) == (0, 0)
