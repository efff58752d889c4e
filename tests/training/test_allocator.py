"""Working memory is not asked of the system anew at each call; counted in page faults."""

import os
import platform
import subprocess
import sys

import pytest

CODE = """
import ctypes, resource, sys
from contextlib import nullcontext
from dime.training.machine import freed_memory_kept, dispatch_from_this_thread

import jax, jax.numpy as jnp

if sys.argv[1] == "kept":
    dispatch_from_this_thread()

program = jax.jit(lambda x: jnp.sin(x @ x.T).sum())  # works in 64 MB
x = jnp.ones((4096, 8))

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    program(x).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def a_gigabyte_is_mapped():
    address = libc.malloc(2**30)
    size_and_flags = ctypes.c_size_t.from_address(address - 8).value
    libc.free(address)
    return size_and_flags >> 1 & 1  # IS_MMAPPED

with freed_memory_kept() if sys.argv[1] == "kept" else nullcontext():
    # A small block that lies in the way may cost one call its memory.
    print(min([faults() for _ in range(10)][4:]), a_gigabyte_is_mapped())
print(a_gigabyte_is_mapped())
"""


def page_faults_and_mapped(how, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    kept.pop("GLIBC_TUNABLES", None)
    environment = kept | {"JAX_PLATFORMS": "cpu"} | environment
    command = [sys.executable, "-c", CODE, how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_the_working_memory_of_a_program_stays_with_the_process():
    pages = 4096 * 4096 * 4 / 4096
    faults, *mapped = page_faults_and_mapped("as it is")
    assert faults > 0.9 * pages
    assert mapped == [1, 1]
    faults, *mapped = page_faults_and_mapped("kept")
    assert faults < 0.1 * pages
    assert mapped == [0, 1]  # inside and after
    # What the user says about memory stands.
    assert page_faults_and_mapped("kept", MALLOC_TRIM_THRESHOLD_="100000")[0] > 0.9 * pages
