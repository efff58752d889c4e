"""A full disk stops nothing that can go on, and is never taken for a good end."""

import errno
import os

import pytest
from tensorboardX.event_file_writer import EventsWriter

from dime.training.records import RecordFile, read_records
from tests.training.runs import assert_same_run, checkpoints, resume, start, status_of
from tests.training.walk import at, walks

pytestmark = pytest.mark.promise("R4")

NO_SPACE = "No space left on device"
NOT_SAVED = "the last checkpoint could not be written"
CHECKPOINTS = "/run/checkpoints"


class Disk:
    """Full for files with `full_for` in their path; of a line it takes nothing, or half of it."""

    def __init__(self):
        self.full_for = None
        self.halves = False
        self._write, self._fsync = os.write, os.fsync

    def fill(self, path=""):
        self.full_for = path

    def free(self):
        self.full_for = None

    def write(self, descriptor, content):
        if not self._is_full(descriptor):
            return self._write(descriptor, content)
        if self.halves:
            return self._write(descriptor, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, NO_SPACE)

    def fsync(self, descriptor):
        if self._is_full(descriptor):
            raise OSError(errno.ENOSPC, NO_SPACE)
        self._fsync(descriptor)

    def _is_full(self, descriptor):
        return self.full_for is not None and self.full_for in os.readlink(
            f"/proc/self/fd/{descriptor}"
        )


@pytest.fixture
def disk(monkeypatch):
    """The disk, which is not full yet."""
    made = Disk()
    monkeypatch.setattr("dime.training.records.os.write", made.write)
    monkeypatch.setattr("dime.training.records.os.fsync", made.fsync)
    return made


def assert_nothing_half(run_dir):
    assert not list(run_dir.rglob("*.tmp"))


in_both_ways = pytest.mark.parametrize("halves", [False, True], ids=["raises", "takes half"])


@in_both_ways
def test_records_that_the_disk_does_not_take_come_with_the_next(halves, disk, tmp_path):
    disk.halves = halves
    records = RecordFile(tmp_path / "metrics.jsonl")
    records.append({"number": 0})
    before = records.path.read_bytes()
    disk.fill()
    for number in (1, 2):
        with pytest.raises(OSError, match=NO_SPACE):
            records.append({"number": number})
        assert records.path.read_bytes() == before
    disk.free()
    records.append({"number": 3})
    records.close()
    assert [record["number"] for record in read_records(records.path)] == [0, 1, 2, 3]


@in_both_ways
def test_a_sync_writes_what_waits(halves, disk, tmp_path):
    disk.halves = halves
    records = RecordFile(tmp_path / "metrics.jsonl")
    disk.fill()
    for write in (lambda: records.append({"number": 0}), records.sync):
        with pytest.raises(OSError, match=NO_SPACE):
            write()
        assert records.path.read_bytes() == b""
    disk.free()
    assert records.sync() == records.path.stat().st_size
    records.close()
    assert [record["number"] for record in read_records(records.path)] == [0]


@in_both_ways
def test_a_disk_that_is_full_for_a_while(halves, disk, tmp_path, straight, capsys):
    disk.halves = halves

    def before_step(walk):
        return at(0, 19, disk.fill)(walk) or at(0, 44, disk.free)(walk)

    assert start(tmp_path / "run", walks(before_step), progress=True).state == "finished"
    out = capsys.readouterr().out
    assert f"warning: no checkpoint at env step 30: [Errno 28] {NO_SPACE}" in out
    for line in (f"warning: [Errno 28] {NO_SPACE}", "Training continues; the next record tries"):
        assert line in out
    assert_same_run(tmp_path / "run", straight)
    assert_nothing_half(tmp_path / "run")


@pytest.mark.parametrize(
    "since, full_for, saved",
    [
        pytest.param((1, 1), CHECKPOINTS, [], id="no checkpoint ever"),
        pytest.param((0, 35), CHECKPOINTS, [15, 30], id="no checkpoint at the end"),
        pytest.param((0, 35), "", [15, 30], id="nothing at the end"),
    ],
)
def test_a_run_that_could_not_save_its_end_failed(
    since, full_for, saved, disk, tmp_path, straight, capsys
):
    env = walks(at(*since, lambda: disk.fill(full_for)))
    result = start(tmp_path / "run", env, progress=True)
    assert (result.state, result.reason, result.env_step) == ("failed", NOT_SAVED, 48)
    warning = f"warning: no checkpoint at env step 48: [Errno 28] {NO_SPACE}"
    assert warning in capsys.readouterr().out
    if full_for:
        status = status_of(tmp_path / "run")
        assert (status["state"], status["reason"], status["env_step"]) == ("failed", NOT_SAVED, 48)
    names = [path.name for path in checkpoints(tmp_path / "run")]
    assert names == [f"step-{env_step:09d}" for env_step in saved]
    assert_nothing_half(tmp_path / "run")
    disk.free()
    assert resume(tmp_path / "run").state == "finished"
    assert_same_run(tmp_path / "run", straight)


@pytest.mark.parametrize("by", ["SIGTERM", "stopped by the callback"])
def test_a_stopped_run_that_could_not_save_failed(by, disk, tmp_path, straight, brake):
    def before_step(walk):
        return at(0, 35, lambda: disk.fill(CHECKPOINTS))(walk) or (
            at(0, 40, brake)(walk) if by == "SIGTERM" else None
        )

    result = start(tmp_path / "run", walks(before_step), lambda record: record["env_step"] == 40)
    assert (result.state, result.reason) == ("failed", f"{by}, and {NOT_SAVED}")
    assert (result.env_step, result.signal) == (40, None)
    status = status_of(tmp_path / "run")
    assert (status["state"], status["reason"]) == (result.state, result.reason)
    assert_nothing_half(tmp_path / "run")
    disk.free()
    assert resume(tmp_path / "run").state == "finished"
    assert_same_run(tmp_path / "run", straight)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, NO_SPACE), RuntimeError("no network")])
def test_a_listener_that_fails_hears_no_more(error, tmp_path, straight, monkeypatch, capsys):
    heard = []
    write_event = EventsWriter.write_event

    def failing(writer, event):
        heard.append(event.step)
        if event.step == 20:
            raise error
        return write_event(writer, event)

    monkeypatch.setattr(EventsWriter, "write_event", failing)
    result = start(tmp_path / "run", tensorboard=True, progress=True)
    assert result.state == "finished"
    assert heard.count(20) == 1 and heard[-1] == 20
    warning = f"warning: TensorBoard failed ({type(error).__name__}: {error}) and receives"
    assert capsys.readouterr().out.count(warning) == 1
    assert_same_run(tmp_path / "run", straight)


def test_a_terminal_that_is_gone_stops_nothing(tmp_path, straight, monkeypatch):
    def gone(*arguments, **keywords):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("dime.training.listeners.print", gone, raising=False)
    assert start(tmp_path / "run", progress=True).state == "finished"
    assert_same_run(tmp_path / "run", straight)


def test_a_seed_that_fails_on_a_full_disk_leaves_the_others_alone(disk, tmp_path, capsys):
    def before_step(walk):
        if (walk.number, walk.total_steps) == (1, 23):
            disk.fill("/run/failures")
            raise RuntimeError("broken")

    result = start(tmp_path / "run", walks(before_step), seeds=[0, 7], progress=True)
    assert (result.state, result.env_step) == ("failed", 48)
    assert "seed 7" in result.reason and "broken" in result.reason
    assert f"its state could not be kept: [Errno 28] {NO_SPACE}" in capsys.readouterr().out
