"""Where compiled programs are kept, and that a second process finds them."""

import os
import subprocess
import sys

import pytest

SHORTEST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
CODE = """
import jax, jax.numpy as jnp
from dime.training.machine import keep_compiled_programs

keep_compiled_programs()
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
shortest = jax.config.jax_persistent_cache_min_compile_time_secs
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
print(float(jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((3, 3))).sum()))
print(jax.config.jax_compilation_cache_dir, any("cache_hit" in hit for hit in hits), shortest)
"""


def run(home, **environment):
    """What the process printed: a value, the folder, whether it held the program, what it keeps."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XDG_"))}
    environment = kept | {"HOME": str(home), "JAX_PLATFORMS": "cpu"} | environment
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CODE], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    value, last = done.stdout.splitlines()
    return value, *last.split()


def test_a_second_process_finds_what_the_first_compiled(tmp_path):
    folder = str(tmp_path / ".cache" / "dime" / "compiled")
    first, second = run(tmp_path), run(tmp_path)
    assert first == (second[0], folder, "False", "0.05")
    assert second[1:] == (folder, "True", "0.05")


@pytest.mark.parametrize(
    "environment, folder",
    [
        ({"XDG_CACHE_HOME": "{}/elsewhere", SHORTEST: "1.0"}, "{}/elsewhere/dime/compiled"),
        ({"JAX_COMPILATION_CACHE_DIR": "{}/own"}, "{}/own"),
        ({"JAX_ENABLE_COMPILATION_CACHE": "false"}, "None"),
        ({"HOME": "/proc/none"}, "None"),
    ],
)
def test_other_places(environment, folder, tmp_path):
    environment = {name: value.format(tmp_path) for name, value in environment.items()}
    home = environment.pop("HOME", tmp_path)
    assert run(home, **environment)[1:] == (folder.format(tmp_path), "False", "1.0")
