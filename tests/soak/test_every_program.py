"""Every algorithm's programs made in other processes: nothing in them depends on which one it is.

A run is resumed in another process, so what an algorithm draws when it is made, or takes from the
order of a set, would make it another run. Tests that resume in one process share what was made.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dime.algorithms.registry import ALGORITHMS

pytestmark = [pytest.mark.soak, pytest.mark.promise("R2", "R16")]

# Lowered, not compiled: constants stand in the text.
PROGRAMS = """
import hashlib, jax
from dime.algorithms.registry import ALGORITHMS
from tests.algorithms.test_every_algorithm import OBS, agent, batch, counters

for name in ALGORITHMS:
    made, key = agent(name), jax.random.key(0)
    state = jax.eval_shape(made.init, key)
    programs = [jax.jit(made.init).lower(key)]
    programs += [jax.jit(made.update).lower(state, batch(0), key, counters(0))]
    programs += [jax.jit(act).lower(state, OBS, key, counters(0)) for act in made.act.values()]
    texts = "".join(program.as_text() for program in programs)
    print(name, hashlib.sha256(texts.encode()).hexdigest())
"""


def test_the_programs_are_the_same_in_another_process():
    told = []
    for hash_seed in ("1", "2"):
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAMS],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        told.append(dict(line.split() for line in ended.stdout.splitlines()))
    assert list(told[0]) == list(ALGORITHMS)
    assert told[0] == told[1]
