"""Counts of what a program is made of, against counts by hand."""

import pytest

from dime.algorithms.registry import ALGORITHMS
from dime.benchmark.costs import network_evaluations
from dime.training.config import replace_nested

# Chains of 16, 20, 15, 100, 20, 5: for the target, and for the policy's objective.
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


def test_every_algorithm_is_among_them():
    assert set(EVALUATIONS) == set(ALGORITHMS)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_network_evaluations(name):
    algorithm = ALGORITHMS[name]
    assert network_evaluations(algorithm, algorithm.config()) == EVALUATIONS[name]


def test_network_evaluations_follow_the_settings():
    algorithm = ALGORITHMS["dime"]
    settings = replace_nested(algorithm.config(), {"policy": {"num_denoising_steps": 3}})
    assert network_evaluations(algorithm, settings) == (3, 6)
