"""A disk of 20 MB that really fills up: what the run says of it, and that what it says is true."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from dime.training.checkpoint.writer import bytes_on_disk, explain_full_disk
from tests.training.checkpoints import rows_of, state_at

pytestmark = pytest.mark.promise("R4")

# In namespaces of its own, so that the mount is seen by nobody else and goes with the process.
UNSHARE = ["unshare", "--mount", "--map-root-user"]
MOUNT = 'mount -t tmpfs -o size=20m tmpfs "$0" && exec "$@"'

RUN = """
import os, sys
from pathlib import Path
from tests.training import runs
from tests.training.walk import at, walks

disk = Path(sys.argv[1])
filler = disk / "filler"

def free():
    return os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize

def fill():
    filler.write_bytes(bytes(free() - 8192))

def make_room():
    print("room", free(), filler.stat().st_size, flush=True)
    os.truncate(filler, filler.stat().st_size - int(os.environ.get("MISSING", 2**20)))

def before_step(walk):
    return at(0, 19, fill)(walk) or at(0, 33, make_room)(walk)

policy = {"num_denoising_steps": 2, "hidden_dim": 64, "num_hidden_layers": 1}
options = runs.DIME | {"policy": policy}
result = runs.start(disk / "run", walks(before_step), progress=True, **options)
print("ended", result.state, [path.name for path in runs.checkpoints(disk / "run")])
"""


def in_a_small_disk(folder, environment):
    """What the run prints; skips where this process may not mount."""
    folder.mkdir(exist_ok=True)
    tried = subprocess.run([*UNSHARE, "sh", "-c", MOUNT, folder, "true"], capture_output=True)
    if tried.returncode:
        pytest.skip(f"mounting is refused here: {tried.stderr.decode().strip()}")
    ended = subprocess.run(
        [*UNSHARE, "sh", "-c", MOUNT, folder, sys.executable, "-c", RUN, folder],
        cwd=Path(__file__).parents[2],
        env=os.environ
        | {"PYTHONPATH": "src:.", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout


def test_a_disk_of_20_megabytes(tmp_path):
    """Full from env step 19 on; given just what was said to be missing, the next one fits."""
    out = in_a_small_disk(tmp_path / "disk", {})
    said = re.search(
        r"warning: no checkpoint at env step 30: \[Errno 28\] No space left on device; it needs "
        r"([\d.]+) MB, ([\d.]+) MB are free: ([\d.]+) MB are missing",
        " ".join(out.split()),
    )
    assert said, out
    needs, free, missing = map(float, said.groups())
    assert missing == pytest.approx(needs - free, abs=0.02)
    assert "ended finished ['step-000000045', 'step-000000048']" in out
    again = in_a_small_disk(tmp_path / "disk", {"MISSING": str(round(missing * 1e6))})
    assert re.search(r"ended \w+ \['step-000000015', 'step-000000045'", again)  # 48 needs more


def test_what_arrays_take_on_a_disk_is_not_underestimated(tmp_path):
    many = {f".policy.layers[{n}].bias": np.zeros(1, np.float32) for n in range(300)}
    for arrays in ({}, state_at(5), rows_of(0, 1), rows_of(0, 5000), many):
        size = len(safetensors.numpy.save(arrays))
        assert size <= bytes_on_disk(arrays) <= size + 4096 + 128 * len(arrays)


def test_other_errors_are_told_as_they_are(tmp_path):
    error = OSError(5, "Input/output error")
    assert explain_full_disk(error, tmp_path, 10) == "[Errno 5] Input/output error"


def test_room_that_is_there_is_not_called_missing(tmp_path):
    """A quota refuses although the file system has room."""
    told = explain_full_disk(OSError(122, "Disk quota exceeded"), tmp_path, 1234)
    assert told.startswith("[Errno 122] Disk quota exceeded; it needs 0.01 MB, ")
    assert "missing" not in told


def test_a_folder_that_is_gone_has_no_free_bytes_to_tell(tmp_path):
    error = OSError(28, "No space left on device")
    assert explain_full_disk(error, tmp_path / "gone", 10) == str(error)
