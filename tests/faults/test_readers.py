"""Checkpoints with right SHA-256 sums and wrong content: refused, no code run, nothing allocated.

Forgery is outside of the promises (docs/promises.md) but for that.
"""

import io
import json
import os
import pickle
import resource
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from dime.errors import DimeError
from dime.training.checkpoint import DamagedError
from dime.training.checkpoint.reader import encode
from dime.training.checkpoint.writer import CheckpointFolder
from tests.training.checkpoints import (
    episodes_at,
    json_at,
    plant,
    rows_of,
    save,
    sign_manifest,
)

pytestmark = pytest.mark.promise("R3", "R12")

SEGMENT = "000000005-000000010.safetensors"


@pytest.fixture
def folder(tmp_path):
    """One checkpoint, at 10, with two replay segments."""
    path = tmp_path / "checkpoints"
    path.mkdir()
    made = CheckpointFolder(path)
    save(made, 10)
    assert made.load(made.steps()[0]).env_step == 10
    return made


def assert_refused(folder, *words):
    """With our own error, which has these words; and nothing is read as if it were whole."""
    with pytest.raises(DamagedError) as caught:
        folder.load(folder.steps()[0])
    assert "damaged" in str(caught.value)
    for word in words:
        assert word in str(caught.value), caught.value


def put(path, value):
    """A change that sets the entry at this path of keys."""

    def change(body):
        place = body
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        return body

    return change


def without(*path):
    def change(body):
        place = body
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]
        return body

    return change


MANIFESTS = {
    "a list": lambda body: [body],
    "no version": without("format_version"),
    "version of text": put(["format_version"], "1"),
    "a file more": put(["files", "../../x"], {"sha256": "", "bytes": 0}),
    "no file of the state": without("files", "state.safetensors"),
    "a file's size enormous": put(["files", "run.json", "bytes"], 2**62),
    "a file's size of text": put(["files", "run.json", "bytes"], "1"),
    "no sum": without("files", "run.json", "sha256"),
    "replay of texts": put(["replay"], ["x"]),
    "replay empty": put(["replay"], []),
    "segment above": put(["replay", 0, "file"], "../../../etc/passwd"),
    "segment's size enormous": put(["replay", 0, "bytes"], 2**62),
    "segment from below 0": put(["replay", 0, "start"], -5),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_that_dime_does_not_write(folder, name):
    sign_manifest(folder.steps()[0], MANIFESTS[name])
    assert_refused(folder)


@pytest.mark.parametrize(
    "ranges",
    [
        pytest.param([(0, 5), (3, 10)], id="overlapping"),
        pytest.param([(0, 5), (7, 10)], id="a gap"),
        pytest.param([(5, 10), (0, 5)], id="another order"),
        pytest.param([(0, 10), (0, 10)], id="twice"),
        pytest.param([(0, 5)], id="too short"),
        pytest.param([(0, 5), (5, 12)], id="too long"),
        pytest.param([], id="none"),
    ],
)
def test_whole_segments_that_do_not_make_the_replay(folder, ranges):
    segments = [folder.save_segment(rows_of(*both), *both, [0]) for both in ranges]
    save(folder, 10, segments)
    assert_refused(folder)
    save(
        folder, 10, [folder.save_segment(rows_of(*both), *both, [0]) for both in [(2, 7), (7, 10)]]
    )
    assert folder.load(folder.steps()[0]).env_step == 10


@pytest.mark.parametrize("absolute", [False, True])
def test_a_segment_outside_is_not_read_even_if_its_sum_is_right(folder, absolute, tmp_path):
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes((folder.replay_folder / SEGMENT).read_bytes())
    name = str(outside) if absolute else "../../outside.safetensors"
    assert (folder.replay_folder / name).samefile(outside)
    sign_manifest(folder.steps()[0], put(["replay", 1, "file"], name))
    assert_refused(folder, "the replay's segment", "is not 000000005-000000010.safetensors")


RUN = json_at(10)
BOMB = "[" * 100_000
NOT_JSON = {
    "nothing": "",
    "a bomb": BOMB,
    "a bomb of tables": '{"a":' * 100_000,
    "deep, but whole": "[" * 900 + "]" * 900,
    "NaN": '{"content": NaN}',
    "a large number": '{"content": ' + "9" * 100_000 + "}",
    "no UTF-8": b'{"content": "\xff"}',
    "UTF-16": '{"content": {}}'.encode("utf-16"),
    "a name twice": '{"content": {}, "content": {}}',
    "a surrogate": r'{"content": "\ud800"}',
}


@pytest.mark.parametrize("name", NOT_JSON)
@pytest.mark.parametrize("file", ["manifest.json", "run.json"])
def test_json_that_is_none(folder, name, file):
    content = NOT_JSON[name]
    content = content.encode() if isinstance(content, str) else content
    newest = folder.steps()[0]
    if file == "run.json":
        plant(folder, newest, file, content)
    else:
        (newest / file).write_bytes(content)
    assert_refused(folder, file)


RUNS = {
    "a list": [],
    **{f"no {name}": {k: v for k, v in RUN.items() if k != name} for name in RUN},
    **{
        f"{name} {value!r:.40}": RUN | {name: value}
        for name, value in [
            *(("env_step", value) for value in (-1, "10", 10.0, True, 2**31, 15)),
            *(("seeds", value) for value in ([], 0, [0, 0], ["0"], [1], {})),
            *(("spaces", value) for value in (None, {}, "x")),
            *(("episodes", value) for value in (None, [], [{}], RUN["episodes"] * 2)),
            ("record_bytes", {"metrics.jsonl": 0, "evaluations.jsonl": -1}),
            *(("wall_time_s", value) for value in (None, "1", 10**400, float("inf"))),
            *(("failed_seeds", value) for value in (None, {"0": {}})),
        ]
    },
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_json_that_dime_does_not_write(folder, name):
    plant(folder, folder.steps()[0], "run.json", encode(RUNS[name]))
    assert_refused(folder)


def header(table, data=b""):
    """A safetensors file with this header."""
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + data


def pickled():
    """What would leave a file behind if anyone unpickled it."""

    class Trap:
        def __reduce__(self):
            return os.mkdir, ("unpickled",)

    return pickle.dumps(Trap())


def zipped(name, content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


def npz():
    file = io.BytesIO()
    np.savez(file, x=np.array([{}], object))
    return file.getvalue()


TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
NO_ARRAYS = {
    "nothing": b"",
    "a pickle": pickled(),
    "a zip with a pickle": zipped("archive/data.pkl", pickled()),
    "an npz with objects": npz(),
    "a header beyond the file": struct.pack("<Q", 2**62) + b"{}",
    "a header of the largest length": struct.pack("<Q", 2**64 - 1) + b"{}",
    "a header that is no table": header([]),
    "a header that is a bomb": header(BOMB.encode()),
    "an enormous shape": header({"a": TENSOR | {"shape": [2**40, 2**40]}}, bytes(4)),
    "an overflowing shape": header({"a": TENSOR | {"shape": [2**63, 2]}}, bytes(4)),
    "a negative shape": header({"a": TENSOR | {"shape": [-1]}}, bytes(4)),
    "a shape that does not fit": header({"a": TENSOR | {"shape": [2]}}, bytes(4)),
    "offsets beyond the file": header({"a": TENSOR | {"data_offsets": [0, 2**40]}}, bytes(4)),
    "offsets backwards": header({"a": TENSOR | {"data_offsets": [4, 0]}}, bytes(4)),
    "overlapping": header({"a": TENSOR, "b": TENSOR}, bytes(4)),
    "an unknown dtype": header({"a": TENSOR | {"dtype": "O"}}, bytes(4)),
    "bytes left over": header({"a": TENSOR}, bytes(9)),
    "bfloat16": header({"a": TENSOR | {"dtype": "BF16", "shape": [2]}}, bytes(4)),
    "float8": header({"a": TENSOR | {"dtype": "F8_E4M3", "shape": [4]}}, bytes(4)),
}


@pytest.mark.parametrize("name", NO_ARRAYS)
@pytest.mark.parametrize("file", ["state.safetensors", "episodes.safetensors", SEGMENT])
def test_arrays_that_are_none(folder, name, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plant(folder, folder.steps()[0], file, NO_ARRAYS[name])
    assert_refused(folder, file)
    assert not (tmp_path / "unpickled").exists()


def changed(arrays, **changes):
    return {name: changes.get(name, array) for name, array in arrays.items()}


ROWS, SEEDS = rows_of(5, 10), {"seeds": "[0]"}
SEGMENTS = {
    "no seeds": (ROWS, None),
    "other metadata": (ROWS, {"format": "pt"}),
    "seeds that are no JSON": (ROWS, {"seeds": "[0"}),
    "seeds of text": (ROWS, {"seeds": '["0"]'}),
    "seeds nested": (ROWS, {"seeds": BOMB}),
    "other seeds": (ROWS, {"seeds": "[1]"}),
    "more seeds than rows": (ROWS, {"seeds": "[0, 1]"}),
    "a shorter one": (rows_of(5, 9), SEEDS),
    "a longer one": (rows_of(4, 10), SEEDS),
    "nothing": ({}, SEEDS),
    "an array less": ({k: v for k, v in ROWS.items() if k != "reward"}, SEEDS),
    "an array more": (ROWS | {"x": np.zeros(1)}, SEEDS),
    "float64": (changed(ROWS, reward=ROWS["reward"].astype(np.float64)), SEEDS),
    "whole numbers": (changed(ROWS, reward=ROWS["reward"].astype(np.int32)), SEEDS),
    "booleans for numbers": (changed(ROWS, reward=ROWS["reward"] > 3), SEEDS),
    "numbers for booleans": (changed(ROWS, terminated=ROWS["reward"]), SEEDS),
    "an axis less": (changed(ROWS, reward=ROWS["reward"][0]), SEEDS),
    "what could be broadcast": (changed(ROWS, obs=np.zeros((1, 1, 3), np.float32)), SEEDS),
    "another width": (changed(ROWS, obs=np.zeros((1, 5, 1), np.float32)), SEEDS),
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_a_segment_that_dime_does_not_write(folder, name):
    rows, metadata = SEGMENTS[name]
    plant(folder, folder.steps()[0], SEGMENT, safetensors.numpy.save(rows, metadata))
    assert_refused(folder, SEGMENT)


EPISODES = {
    "nothing": {},
    "another seed": episodes_at(10, [1]),
    "more seeds": episodes_at(10, [0, 1]),
    "float64": changed(episodes_at(10), **{"0/obs": np.zeros(3)}),
    "another width": changed(episodes_at(10), **{"0/obs": np.zeros(2, np.float32)}),
    "no axis": changed(episodes_at(10), **{"0/next_action": np.zeros((), np.float32)}),
    "flat actions": changed(episodes_at(10), **{"0/actions": np.zeros(2, np.float32)}),
}


@pytest.mark.parametrize("name", EPISODES)
def test_episodes_that_dime_does_not_write(folder, name):
    content = safetensors.numpy.save(EPISODES[name])
    plant(folder, folder.steps()[0], "episodes.safetensors", content)
    assert_refused(folder, "episodes.safetensors")


FILES = ["manifest.json", "run.json", "state.safetensors", "episodes.safetensors", SEGMENT]


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "device"])
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_ordinary_file(folder, name, kind, tmp_path):
    file = folder.steps()[0] / name
    file = file if file.exists() else folder.replay_folder / name
    outside = tmp_path / "outside"
    file.rename(outside)
    if kind == "link":
        file.symlink_to(outside)
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to("/dev/zero")
    assert_refused(folder, name)


def test_sizes_are_looked_at_before_anything_is_read(folder):
    """Sparse files of a terabyte, where this process may have a few more gigabytes of memory."""
    newest, size = folder.steps()[0], 2**40
    before = resource.getrlimit(resource.RLIMIT_AS)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 2**31, before[1]))
    try:
        for name in FILES:
            file = newest / name if (newest / name).exists() else folder.replay_folder / name
            content = file.read_bytes()
            os.truncate(file, size)
            assert_refused(folder, name)
            file.write_bytes(content)
        # Also where the manifest has the size.
        os.truncate(newest / "state.safetensors", size)
        sign_manifest(newest, put(["files", "state.safetensors", "bytes"], size))
        with pytest.raises(DimeError, match="too many for the memory"):
            folder.load(newest)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
