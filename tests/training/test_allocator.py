"""Working memory is not asked of the system anew at each call; counted in page faults."""

import os
import platform
import subprocess
import sys

import pytest

CODE = """
import resource, sys
from contextlib import nullcontext
from dime.training.allocator import freed_memory_kept, dispatch_from_this_thread

import jax, jax.numpy as jnp

if sys.argv[1] == "kept":
    dispatch_from_this_thread()

program = jax.jit(lambda x: jnp.sin(x @ x.T).sum())  # works in 64 MB
x = jnp.ones((4096, 8))
program(x).block_until_ready()

def faults():
    for _ in range(30):
        program(x).block_until_ready()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        program(x).block_until_ready()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 5

with freed_memory_kept() if sys.argv[1] == "kept" else nullcontext():
    inside = faults()
print(inside, faults())
"""


def page_faults(how, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    kept.pop("GLIBC_TUNABLES", None)
    environment = kept | {"JAX_PLATFORMS": "cpu"} | environment
    command = [sys.executable, "-c", CODE, how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [float(number) for number in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_the_working_memory_of_a_program_stays_with_the_process():
    pages = 4096 * 4096 * 4 / 4096
    assert page_faults("as it is")[0] > 0.9 * pages
    inside, afterwards = page_faults("kept")
    assert inside < 0.5 * pages < 0.9 * pages < afterwards
    # What the user says about memory stands.
    assert page_faults("kept", MALLOC_TRIM_THRESHOLD_="100000")[0] > 0.9 * pages
