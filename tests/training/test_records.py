"""Files of records: whole lines, no number that JSON does not have, and the cut at a checkpoint."""

import json
import os

import pytest

from dime.benchmark.benchmark import benchmark, benchmark_all
from dime.errors import DimeError
from dime.training.records import (
    RecordFile,
    cut_records,
    read_json,
    read_records,
    require_writable,
    write_bytes,
    write_json,
)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "metrics.jsonl"


def test_each_record_is_one_write_of_one_line(file, monkeypatch):
    writes = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: writes.append(data) or write(fd, data))
    records = RecordFile(file)
    for number in range(3):
        records.append({"number": number, "text": "a\nb"})
        # A reader meets whole lines at any time, without a flush or a close.
        assert [record["number"] for record in read_records(file)] == list(range(number + 1))
    records.close()
    assert len(writes) == 3
    assert all(data.endswith(b"\n") and data.count(b"\n") == 1 for data in writes)
    assert b"".join(writes) == file.read_bytes()


def test_numbers_that_json_does_not_have_become_null(file):
    records = RecordFile(file)
    nan, inf = float("nan"), float("inf")
    records.append({"a": nan, "b": [1.0, inf, [-inf]], "c": {"d": nan, "e": 2}, "f": (nan,)})
    records.close()
    assert "NaN" not in file.read_text() and "Infinity" not in file.read_text()
    expected = {"a": None, "b": [1.0, None, [None]], "c": {"d": None, "e": 2}, "f": [None]}
    assert json.loads(file.read_text()) == expected


def test_an_existing_file_is_continued(file):
    for number in range(2):
        records = RecordFile(file)
        records.append({"number": number})
        assert records.sync() == file.stat().st_size
        records.close()
    assert [record["number"] for record in read_records(file)] == [0, 1]


def test_a_line_that_is_being_written_is_left_out(file):
    file.write_text('{"a": 1}\n{"a": 2}\n{"a": ')
    assert list(read_records(file)) == [{"a": 1}, {"a": 2}]


def test_no_file_has_no_records(file):
    assert list(read_records(file)) == []


def test_the_tail_is_moved(file, tmp_path):
    head, tail = '{"a": 1}\n', '{"a": 2}\n{"a": 3}\n'
    file.write_text(head + tail)
    discarded = tmp_path / "discarded.jsonl"
    assert cut_records(file, len(head), discarded) == 2
    assert file.read_text() == head
    assert discarded.read_text() == tail
    # Once more changes nothing.
    assert cut_records(file, len(head), discarded) == 0
    assert discarded.read_text() == tail


def test_half_a_line_goes_with_the_tail_and_is_closed(file, tmp_path):
    discarded = tmp_path / "discarded.jsonl"
    file.write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert cut_records(file, 9, discarded) == 2
    assert discarded.read_text() == '{"a": 2}\n{"a"\n'
    file.write_text('{"a": 1}\n{"a": 5}\n')
    assert cut_records(file, 9, discarded) == 1
    assert discarded.read_text() == '{"a": 2}\n{"a"\n{"a": 5}\n'


def test_cutting_at_the_end_or_of_nothing_moves_nothing(file, tmp_path):
    assert cut_records(file, 0, tmp_path / "discarded.jsonl") == 0
    file.write_text('{"a": 1}\n')
    assert cut_records(file, 9, tmp_path / "discarded.jsonl") == 0
    assert not (tmp_path / "discarded.jsonl").exists()


def test_an_open_file_continues_where_it_was_cut(file, tmp_path):
    records = RecordFile(file)
    records.append({"a": 1})
    size = records.sync()
    records.append({"a": 2})
    cut_records(file, size, tmp_path / "discarded.jsonl")
    records.append({"a": 3})
    records.close()
    assert [record["a"] for record in read_records(file)] == [1, 3]


def test_a_file_is_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    write_json(path, {"state": "running"})
    seen = []
    replace = type(path).replace

    def watched(source, target):
        # At the moment of the rename the new content is complete and synced, the old one in place.
        seen.append((json.loads(path.read_text()), json.loads(source.read_text())))
        return replace(source, target)

    monkeypatch.setattr(type(path), "replace", watched)
    write_json(path, {"state": "finished"})
    assert seen == [({"state": "running"}, {"state": "finished"})]
    assert json.loads(path.read_text()) == {"state": "finished"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["status.json"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    write_bytes(path, b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"


def test_editors_put_a_mark_before_json(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}\n', "utf-8-sig")
    assert read_json(tmp_path / "a.json") == {"a": 1}
    assert list(read_records(tmp_path / "a.json")) == [{"a": 1}]


@pytest.mark.parametrize("place", ["nowhere/a.json", "file/a.json"])
def test_a_place_that_cannot_be_written_is_refused_before(place, tmp_path):
    (tmp_path / "file").write_text("")
    require_writable(tmp_path / "a.json")
    with pytest.raises(DimeError, match="a.json cannot be written: .* is no folder"):
        require_writable(tmp_path / place)
    with pytest.raises(DimeError, match="a.json cannot be written"):
        benchmark(("paper/dog-run",), tmp_path / place)
    with pytest.raises(DimeError, match="a.json cannot be written"):
        benchmark_all("laptop", tmp_path / place)
