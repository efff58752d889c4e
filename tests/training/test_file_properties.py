"""Generated contents of a run's files: arrays come back as they were, any bytes are answered."""

import contextlib
import json
import os
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dime.errors import DimeError
from dime.training.checkpoint.reader import read_rows
from dime.training.checkpoint.writer import CheckpointFolder
from dime.training.records import (
    LARGEST_JSON,
    RecordFile,
    cut_records,
    parse_json,
    read_json,
    read_records,
    signed,
    write_json,
)
from dime.training.run_directory import RunDirectory
from tests.training.checkpoints import episodes_at, rows_of, run_at

pytestmark = pytest.mark.promise("R3")

DTYPES = [np.float16, np.float32, np.float64, np.int8, np.uint8, np.int16, np.uint16, np.int32]
DTYPES += [np.uint32, np.int64, np.uint64, np.bool_]
ARRAYS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter("__metadata__".__ne__),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0))
    ),
    max_size=4,
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
RECORDS = st.lists(st.dictionaries(st.text(), JSON, max_size=4), max_size=4)


@contextlib.contextmanager
def new_folder():
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@settings(max_examples=60)
@given(ARRAYS, st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=3, unique=True))
def test_a_checkpoint_brings_back_any_arrays(arrays, seeds):
    with new_folder() as path:
        folder = CheckpointFolder(path)
        segment = folder.save_segment(rows_of(0, 7, seeds), 0, 7, seeds)
        folder.save(arrays, episodes_at(7, seeds), run_at(7, seeds), [segment])
        loaded, warnings = folder.load_newest()
        assert warnings == [] and set(loaded.state) == set(arrays)
        for name, array in arrays.items():
            found = loaded.state[name]
            assert (found.dtype, found.shape) == (array.dtype, array.shape)
            assert found.tobytes() == array.tobytes()
        assert loaded.run == run_at(7, seeds)
        ((file, start),) = loaded.replay_files
        rows = read_rows(file, seeds[::-1])
        assert start == 0
        for name, array in rows_of(0, 7, seeds).items():
            np.testing.assert_array_equal(rows[name], array[::-1])


@given(RECORDS)
def test_records_come_back(records):
    with new_folder() as path:
        file = RecordFile(path / "x.jsonl")
        for record in records:
            file.append(record)
        file.close()
        found = list(read_records(path / "x.jsonl"))
    assert json.dumps(found) == json.dumps(list(map(finite, records)))


def finite(value):
    """With null for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


@given(st.dictionaries(st.text().filter("sha256".__ne__), JSON, max_size=4))
def test_a_signed_table_comes_back_with_its_sum(content):
    with new_folder() as path:
        write_json(path / "x.json", signed(content))
        found = read_json(path / "x.json")
    assert signed(found) == found
    del found["sha256"]
    assert json.dumps(found) == json.dumps(finite(content))


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=30) | st.just(b'{"a": 1}'), max_size=5), st.integers(0, 60))
def test_any_bytes_are_records_or_refused_and_none_is_lost(lines, size):
    content = b"\n".join(lines)
    with new_folder() as path:
        file, discarded = path / "x.jsonl", path / "discarded.jsonl"
        file.write_bytes(content)
        with contextlib.suppress(DimeError):
            assert all(isinstance(record, dict) for record in read_records(file))
        cut_records(file, size, discarded)
        moved = discarded.read_bytes() if discarded.exists() else b""
        assert (file.read_bytes() + moved).removesuffix(b"\n") == content.removesuffix(b"\n")
        assert file.stat().st_size <= size


@settings(max_examples=200)
@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_status_or_nothing(content):
    with new_folder() as path:
        directory = RunDirectory(path)
        directory.status_file.write_bytes(content)
        assert isinstance(directory.status(), dict)


DAMAGED = {
    "no UTF-8": b'{"a": "\xff"}\n',
    "UTF-16": '{"a": 1}\n'.encode("utf-16"),
    "a list": b"[1]\n",
    "a number": b"1\n",
    "NaN": b'{"a": NaN}\n',
    "a name twice": b'{"a": 1, "a": 2}\n',
    "a large number": b'{"a": ' + b"9" * 5000 + b"}\n",
    "a bomb": b"[" * 100_000 + b"\n",
    "an empty line": b"\n",
    "a pickle": b"\x80\x04\x95\n",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_line_that_is_no_record_is_named(tmp_path, name):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"a": 1}\n' + DAMAGED[name])
    with pytest.raises(DimeError, match=r"metrics\.jsonl is damaged: line 2 is no record"):
        list(read_records(file))


def test_a_line_of_any_length_is_not_read_whole(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.touch()
    with file.open("r+b") as content:
        content.truncate(10 * LARGEST_JSON)  # sparse
    tracemalloc.start()
    try:
        with pytest.raises(DimeError, match="line 1 is no record"):
            list(read_records(file))
        assert tracemalloc.get_traced_memory()[1] < 5 * LARGEST_JSON
    finally:
        tracemalloc.stop()


def test_a_json_file_of_any_size_is_not_read_whole(tmp_path):
    file = tmp_path / "status.json"
    file.touch()
    with file.open("r+b") as content:
        content.truncate(2**40)  # sparse
    with pytest.raises(ValueError, match="larger than"):
        read_json(file)
    assert RunDirectory(tmp_path).status() == {}


def test_a_pipe_is_not_waited_for(tmp_path):
    for name in ("metrics.jsonl", "status.json"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(DimeError, match="not a file"):
        list(read_records(tmp_path / "metrics.jsonl"))
    assert RunDirectory(tmp_path).status() == {}


@pytest.mark.parametrize("starts", ["[", '{"starts": "abc"}', '{"starts": {"a": 1}}', "[]"])
def test_a_damaged_provenance_begins_anew(tmp_path, starts):
    directory = RunDirectory(tmp_path)
    directory.provenance_file.write_text(starts)
    directory.add_provenance(3)
    (begun,) = read_json(directory.provenance_file)["starts"]
    assert begun["env_step"] == 3


def test_depth_is_bounded():
    for text in (b"[" * 50 + b"]" * 50, b'{"a":' * 50 + b"1" + b"}" * 50):
        parse_json(text)
    for text in (b"[" * 9999 + b"]" * 9999, b'{"a":' * 9999 + b"1" + b"}" * 9999):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(text)
