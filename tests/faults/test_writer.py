"""The writer of checkpoints stopped at every system call, and refused at every system call.

Several saves in a row, with replay segments that come and go. Before each system call, and in the
middle of each write, the process dies; what it leaves must load as the newest complete checkpoint.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dime.training.checkpoint.reader import read_rows
from dime.training.checkpoint.writer import CheckpointFolder
from tests.training.checkpoints import episodes_at, rows_of, run_at, state_at

STEPS = range(4, 13, 4)
CAPACITY = 6
OPERATIONS = ("open", "write", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir")


class Killed(BaseException):
    """The process dies here."""


class Disk:
    """Counts the system calls that change a disk, and does at one of them what it is told to."""

    def __init__(self, at=None, fault=None, halves=False):
        self.at, self.fault, self.halves = at, fault, halves
        self.count = 0
        self.names = []
        self.unsynced = set()  # inodes with data that no fsync has carried to the disk
        self.renamed = []  # (inode of the folder, old path, new path), until the folder is synced

    @contextlib.contextmanager
    def attached(self):
        """Inside, the operating system's calls go through here."""
        with pytest.MonkeyPatch.context() as patch:
            for name in OPERATIONS:
                patch.setattr(os, name, self._watched(name, getattr(os, name)))
            yield self

    def _watched(self, name, function):
        def called(*arguments, **keywords):
            if name == "open" and not arguments[1] & os.O_CREAT:
                return function(*arguments, **keywords)  # changes nothing
            self._pass(name)
            if name == "fsync":
                return self._sync(os.fstat(arguments[0]).st_ino)
            if name == "write":
                return self._write(function, *arguments)
            if name in ("rename", "replace"):
                self.renamed.append((Path(arguments[1]).parent.stat().st_ino, *arguments[:2]))
            return function(*arguments, **keywords)

        return called

    def _pass(self, name):
        self.count += 1
        self.names.append(name)
        if self.fault is not None and self.at is not None:
            self.fault(self.count - self.at, name)

    def _sync(self, inode):
        """Notes it: no machine really loses its power here."""
        self.unsynced.discard(inode)
        self.renamed = [entry for entry in self.renamed if entry[0] != inode]

    def _write(self, function, descriptor, content):
        self.unsynced.add(os.fstat(descriptor).st_ino)
        if len(content) < 2:
            return function(descriptor, content)
        half = len(content) // 2
        written = function(descriptor, content[:half])
        if self.halves:
            return written
        self._pass("write, second half")
        return written + function(descriptor, content[half:])


def kill(distance, _name):
    """The process is dead from the chosen call on: nothing that it still tries happens."""
    if distance >= 0:
        raise Killed


def error_once(number):
    """One call fails."""

    def fault(distance, _name):
        if distance == 0:
            raise OSError(number, os.strerror(number))

    return fault


def error_from_then_on(number):
    """From the chosen call on nothing can be written any more, though things can be removed."""

    def fault(distance, name):
        if distance >= 0 and name not in ("unlink", "rmdir"):
            raise OSError(number, os.strerror(number))

    return fault


class Run:
    """What a run does with its checkpoints, but for training."""

    def __init__(self, path):
        path.mkdir(exist_ok=True)
        self.folder = CheckpointFolder(path)
        self.segments = []
        self.logged = {}

    def save(self, env_step):
        """Writes what is new of the replay and a checkpoint; logs its hash beforehand."""
        oldest = max(0, env_step - CAPACITY)
        self.logged[env_step] = state_hash(state_at(env_step), episodes_at(env_step))
        start = max(oldest, self.segments[-1].stop if self.segments else 0)
        if start < env_step:
            rows = rows_of(start, env_step)
            self.segments.append(self.folder.save_segment(rows, start, env_step, [0]))
        self.segments = [segment for segment in self.segments if segment.stop > oldest]
        arrays = state_at(env_step), episodes_at(env_step)
        self.folder.save(*arrays, run_at(env_step), list(self.segments))

    def assert_whole(self, env_steps):
        """The newest checkpoint is of one of these env steps, and just what was saved there."""
        loaded, warnings = self.folder.load_newest()
        assert warnings == []
        found = loaded.env_step if loaded else 0
        assert found in env_steps
        if loaded is None:
            return loaded
        assert loaded.run == run_at(found)
        assert state_hash(loaded.state, loaded.episodes) == self.logged[found]
        for file, start in loaded.replay_files:
            rows = read_rows(file, [0])
            expected = rows_of(start, start + rows["reward"].shape[1])
            assert state_hash(rows, {}) == state_hash(expected, {})
        return loaded


def state_hash(*parts):
    """SHA-256 of the names, types, shapes and values of arrays."""
    found = hashlib.sha256()
    for name, array in (item for part in parts for item in sorted(part.items())):
        found.update(f"{name} {array.dtype} {array.shape} ".encode() + array.tobytes())
    return found.hexdigest()


def lose_power(path, disk, num_renamed):
    """What no fsync has reached is gone: the data of files, and so many of the renamed names.

    A file system may keep a later change of names and lose an earlier one in another folder.
    """
    for file in path.rglob("*"):
        if file.is_file() and file.stat().st_ino in disk.unsynced:
            os.truncate(file, 0)
    for inode, old, new in reversed(disk.renamed[:num_renamed]):
        for folder in (path, *path.rglob("*/")):
            if folder.stat().st_ino == inode and (folder / Path(new).name).exists():
                (folder / Path(new).name).rename(folder / Path(old).name)
                break


def calls_of_all_saves(path):
    """How many system calls saving at every step takes, and which."""
    run, disk = Run(path), Disk()
    with disk.attached():
        for env_step in STEPS:
            run.save(env_step)
    shutil.rmtree(path)
    return disk.names


@pytest.mark.promise("R1")
@pytest.mark.parametrize(
    "num_renamed",
    [
        pytest.param(None, id="power stays"),
        pytest.param(0, id="data lost", marks=pytest.mark.soak),
        pytest.param(1, id="data and the oldest name lost"),
        pytest.param(99, id="data and names lost"),
    ],
)
def test_killed_at_every_system_call_the_newest_complete_one_is_loaded(
    tmp_path, num_renamed, record_property
):
    names = calls_of_all_saves(tmp_path / "run")
    assert {*OPERATIONS, "write, second half"} == {*names, "write, second half"} | {"open"}
    for at in range(1, len(names) + 1):
        run, disk, done = Run(tmp_path / "run"), Disk(at, kill), [0]
        with contextlib.suppress(Killed), disk.attached():
            for env_step in STEPS:
                run.save(env_step)
                done.append(env_step)
        assert disk.count >= at and len(done) <= len(STEPS)
        if num_renamed is not None:
            lose_power(tmp_path / "run", disk, num_renamed)
        in_progress = STEPS[len(done) - 1]
        loaded = run.assert_whole([done[-1], in_progress])
        # Complete once it is renamed, which `steps` sees, and not before.
        assert (in_progress in [int(path.name[5:14]) for path in run.folder.steps()]) == (
            loaded is not None and loaded.env_step == in_progress
        )
        run.segments = list(loaded.segments) if loaded else []  # as a next start knows them
        assert_goes_on(run)
        shutil.rmtree(tmp_path / "run")
    assert len(names) > 90
    record_property("tries", len(names))


def assert_goes_on(run):
    """A next save is as ever, and nothing of the one that was cut off stays."""
    with Disk().attached():
        run.save(STEPS[-1] + 4)
    run.assert_whole([STEPS[-1] + 4])
    assert not list(run.folder.folder.rglob("*.tmp"))
    kept = run.folder.steps()
    needed = {s.file for path in kept for s in run.folder.load(path).segments}
    assert {path.name for path in run.folder.replay_folder.iterdir()} == needed
    assert len(kept) <= 2


FAULTS = {
    "one ENOSPC": error_once(errno.ENOSPC),
    "one EIO": error_once(errno.EIO),
    "ENOSPC from then on": error_from_then_on(errno.ENOSPC),
    "EIO from then on": error_from_then_on(errno.EIO),
}


@pytest.mark.promise("R4")
@pytest.mark.parametrize(
    "fault",
    [
        "one ENOSPC",
        pytest.param("one EIO", marks=pytest.mark.soak),
        pytest.param("ENOSPC from then on", marks=pytest.mark.soak),
        "EIO from then on",
    ],
)
def test_refused_at_every_system_call_the_old_checkpoint_stays(tmp_path, fault, record_property):
    names = calls_of_all_saves(tmp_path / "run")
    refused = 0
    for at in range(1, len(names) + 1):
        run, disk, last = Run(tmp_path / "run"), Disk(at, FAULTS[fault]), 0
        try:
            for env_step in STEPS:
                with disk.attached():
                    run.save(env_step)
                last = env_step
        except OSError:
            refused += 1
            if fault.startswith("one"):  # what cannot be removed leaves the new one standing
                assert disk.names[at - 1] not in ("unlink", "rmdir")
            # Refused after its rename the new one stands, whatever the caller was told.
            run.assert_whole([last, env_step])
            assert not list(run.folder.folder.rglob("*.tmp"))
        assert_goes_on(run)  # there is room again
        shutil.rmtree(tmp_path / "run")
    assert refused > 60
    record_property("tries", len(names))


@pytest.mark.promise("R4")
def test_a_disk_that_takes_a_part_of_every_write_gets_everything(tmp_path):
    run, disk = Run(tmp_path / "run"), Disk(halves=True)
    with disk.attached():
        for env_step in STEPS:
            run.save(env_step)
            run.assert_whole([env_step])
    assert disk.names.count("write") > 5 * calls_of_all_saves(tmp_path / "other").count("write")


# Each number of a system call: a child that is killed there by the kernel, with nothing of Python's
# to soften it. One process forks them all, which saves the imports.
CHILDREN = """
import json, os, signal, sys
from pathlib import Path
from tests.faults import test_writer as writer

def die(distance, name):
    if distance == 0:
        os.kill(os.getpid(), signal.SIGKILL)

for at in json.loads(sys.argv[2]):
    if not (child := os.fork()):
        run = writer.Run(Path(sys.argv[1], str(at)))
        with writer.Disk(at, die).attached():
            for env_step in writer.STEPS:
                run.save(env_step)
        os._exit(0)
    print(at, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.promise("R1")
def test_killed_by_the_kernel(tmp_path, record_property):
    names = calls_of_all_saves(tmp_path / "run")
    points = list(range(1, len(names) + 1, 4))
    ended = subprocess.run(
        [sys.executable, "-c", CHILDREN, str(tmp_path), json.dumps(points)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": "src:."},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert ended.stdout.split("\n")[:-1] == [f"{at} -9" for at in points]
    found = []
    for at in points:
        run = Run(tmp_path / str(at))
        run.logged = {step: state_hash(state_at(step), episodes_at(step)) for step in STEPS}
        loaded = run.assert_whole([0, *STEPS])
        found.append(loaded.env_step if loaded else 0)
        run.segments = list(loaded.segments) if loaded else []
        assert_goes_on(run)
    assert found == sorted(found)  # a later kill never gives an older checkpoint
    assert set(found) == {0, *STEPS[:-1]} or set(found) == {0, *STEPS}
    assert len(points) > 20
    record_property("tries", len(points))
