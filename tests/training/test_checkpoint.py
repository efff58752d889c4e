"""Checkpoints: whole or not there, and nothing in them changes unnoticed."""

import json
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.errors import DimeError
from dime.training.checkpoint import DamagedError, from_arrays, to_arrays
from dime.training.checkpoint.writer import CheckpointFolder
from dime.types import Counters
from tests.training.checkpoints import episodes_at, save, state_at


def new_folder(path):
    path.mkdir()
    return CheckpointFolder(path)


@pytest.fixture
def folder(tmp_path):
    """Two checkpoints, at 5 and 10."""
    made = new_folder(tmp_path / "checkpoints")
    save(made, 5)
    save(made, 10)
    return made


def files_of(folder, env_step):
    """Every file that this checkpoint consists of."""
    own = sorted((folder.folder / f"step-{env_step:09d}").iterdir())
    replay = [
        folder.replay_folder / f"{stop - 5:09d}-{stop:09d}.safetensors"
        for stop in range(5, env_step + 1, 5)
    ]
    return own + replay


def test_what_is_loaded_is_what_was_saved(folder):
    loaded, warnings = folder.load_newest()
    assert warnings == []
    assert (loaded.env_step, loaded.run.seeds) == (10, [0])
    for mine, theirs in ((loaded.state, state_at(10)), (loaded.episodes, episodes_at(10))):
        assert set(mine) == set(theirs)
        for name, array in theirs.items():
            assert (mine[name].dtype, mine[name].shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(mine[name], array)
    assert [start for _, start in loaded.replay_files] == [0, 5]
    assert [segment.stop for segment in loaded.segments] == [5, 10]


def test_the_files_of_a_checkpoint(folder):
    names = [path.name for path in files_of(folder, 10)]
    assert names == [
        "episodes.safetensors", "manifest.json", "run.json", "state.safetensors",
        "000000000-000000005.safetensors", "000000005-000000010.safetensors",
    ]  # fmt: skip


@pytest.mark.promise("R3")
@pytest.mark.parametrize("place", range(6))
def test_one_flipped_bit_anywhere_is_found(folder, place):
    file = files_of(folder, 10)[place]
    content = file.read_bytes()
    for position in {*range(0, len(content), 13), len(content) - 1}:
        for bit in (1, 128):
            flipped = bytearray(content)
            flipped[position] ^= bit
            file.write_bytes(flipped)
            with pytest.raises(DamagedError) as caught:
                folder.load(folder.steps()[0])
            assert "damaged" in str(caught.value)
            assert str(file) in str(caught.value)
    file.write_bytes(content)
    assert folder.load_newest()[1] == []


@pytest.mark.promise("R3")
@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "longer"])
@pytest.mark.parametrize("place", range(6))
def test_a_file_that_is_missing_or_of_another_length_is_found(folder, place, how):
    file = files_of(folder, 10)[place]
    content = file.read_bytes()
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes({"empty": b"", "truncated": content[:-1], "longer": content + b" "}[how])
    with pytest.raises(DamagedError) as caught:
        folder.load(folder.steps()[0])
    assert "damaged" in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_manifest_of_another_checkpoint_does_not_fit(folder):
    newest, older = folder.steps()
    shutil.copy(older / "run.json", newest / "run.json")
    with pytest.raises(DamagedError, match=r"run\.json is damaged"):
        folder.load(newest)


def test_the_newest_intact_one_is_loaded_and_the_damaged_ones_are_named(folder):
    save(folder, 15)
    newest, older = folder.steps()
    (newest / "state.safetensors").write_bytes(b"junk")
    loaded, warnings = folder.load_newest()
    assert loaded.path == older and loaded.env_step == 10
    assert len(warnings) == 1
    assert str(newest / "state.safetensors") in warnings[0] and "damaged" in warnings[0]


def test_refused_when_none_is_intact(folder):
    for path in folder.steps():
        (path / "run.json").unlink()
    with pytest.raises(DamagedError) as caught:
        folder.load_newest()
    message = str(caught.value)
    assert message.startswith("No checkpoint is intact.")
    assert all(str(path / "run.json") in message for path in folder.steps())


def test_a_segment_that_both_need_makes_both_damaged(folder):
    files_of(folder, 5)[-1].unlink()
    with pytest.raises(DamagedError, match="No checkpoint is intact"):
        folder.load_newest()


def test_no_checkpoint_is_none(tmp_path):
    assert CheckpointFolder(tmp_path).load_newest() == (None, [])


def test_a_newer_format_is_refused_and_not_taken_for_damage(folder, monkeypatch):
    monkeypatch.setattr("dime.training.checkpoint.writer.FORMAT_VERSION", 2)
    monkeypatch.setattr("dime.training.config.FORMAT_VERSION", 2)
    save(folder, 15)
    monkeypatch.undo()
    with pytest.raises(DimeError) as caught:
        folder.load_newest()
    assert not isinstance(caught.value, DamagedError)
    assert "format version 2" in str(caught.value)
    assert "pip install --upgrade" in str(caught.value)


def test_what_a_killed_save_leaves_is_ignored_and_removed(folder):
    left = folder.folder / ".step-000000015.tmp"
    left.mkdir()
    (left / "state.safetensors").write_bytes(b"half")
    (folder.folder / "step-000000010" / ".run.json.tmp").write_bytes(b"half")
    (folder.replay_folder / ".000000010-000000015.safetensors.tmp").write_bytes(b"half")
    (folder.replay_folder / "000000010-000000014.safetensors").write_bytes(b"of no checkpoint")
    loaded, warnings = folder.load_newest()
    assert (loaded.env_step, warnings) == (10, [])
    save(folder, 20)
    assert folder.load_newest()[0].env_step == 20
    names = {path.name for path in (*folder.folder.iterdir(), *folder.replay_folder.iterdir())}
    needed = {f"{stop - 5:09d}-{stop:09d}.safetensors" for stop in (5, 10, 15, 20)}
    assert names == {"step-000000010", "step-000000020", "replay"} | needed


def test_the_two_newest_are_kept(folder):
    for env_step in (15, 20, 25):
        save(folder, env_step)
        assert len(folder.steps()) == 2
    assert [path.name for path in folder.steps()] == ["step-000000025", "step-000000020"]


def test_a_step_that_is_saved_again_comes_after_the_first(folder):
    again = save(folder, 10, unrepeatable="again")
    assert again.name == "step-000000010-1"
    loaded, _ = folder.load_newest()
    assert loaded.run.unrepeatable == "again" and loaded.path == again
    assert save(folder, 15) == folder.steps()[0]


def test_a_step_that_is_saved_often_is_counted(folder):
    names = [save(folder, 10).name for _ in range(11)]
    assert names == [f"step-000000010-{count}" for count in range(1, 12)]
    assert [path.name for path in folder.steps()] == names[:-3:-1]
    assert save(folder, 15) == folder.steps()[0]


def test_folders_of_other_names_are_left_alone(folder):
    others = {folder.folder / name for name in ("step-old", "step-000000010-old", "step-")}
    for other in others:
        other.mkdir()
    assert [path.name for path in folder.steps()] == ["step-000000010", "step-000000005"]
    assert folder.load_newest()[0].env_step == 10
    assert save(folder, 10).name == "step-000000010-1"
    assert others < set(folder.folder.iterdir())


def test_damaged_ones_are_set_aside(folder):
    save(folder, 15)
    newest, older = folder.steps()
    (newest / "run.json").write_text("{}")
    folder.set_aside(older)
    assert folder.steps() == [older]
    assert (folder.folder / "damaged-step-000000015" / "run.json").read_text() == "{}"
    assert save(folder, 15) == newest
    (newest / "run.json").write_text("{}")
    folder.set_aside(older)  # the same once more
    assert folder.steps() == [older]


class Pair(NamedTuple):
    weight: jax.Array
    inner: dict


def test_trees_become_arrays_by_path_and_trees_again():
    tree = Pair(jnp.ones((2, 3)), {"count": jnp.int32(4), "flags": (jnp.array([True]),)})
    arrays = to_arrays(tree)
    assert set(arrays) == {".weight", ".inner['count']", ".inner['flags'][0]"}
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
    again = from_arrays(arrays, jax.eval_shape(lambda: tree))
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(tree), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_arrays_of_another_algorithm_are_refused():
    tree = Pair(jnp.ones((2, 3)), {"count": jnp.int32(4)})
    arrays = to_arrays(tree)
    with pytest.raises(DimeError, match=r"do not fit this algorithm; first: \[.\.inner\['more"):
        from_arrays(arrays, Pair(jnp.ones((2, 3)), {"count": jnp.int32(4), "more": jnp.ones(1)}))
    with pytest.raises(DimeError, match=r"do not fit"):
        from_arrays(arrays, Pair(jnp.ones((2, 3)), {}))
    with pytest.raises(DimeError, match=r"\.weight is float32\[2, 3\], .* float32\[3, 3\]"):
        from_arrays(arrays, Pair(jnp.ones((3, 3)), {"count": jnp.int32(4)}))
    with pytest.raises(DimeError, match=r"\.inner\['count'\] is int32\[\], .* float32\[\]"):
        from_arrays(arrays, Pair(jnp.ones((2, 3)), {"count": jnp.float32(4)}))


def test_nothing_but_arrays_and_json_is_in_a_checkpoint(folder):
    for file in files_of(folder, 10):
        content = file.read_bytes()
        if file.suffix == ".json":
            json.loads(content)
        else:  # safetensors: the length of a JSON header, the header, the numbers
            size = int.from_bytes(content[:8], "little")
            json.loads(content[8 : 8 + size])


def test_metrics_that_were_once_in_the_state_are_left_out():
    state = Counters(np.int32(3), np.int32(4))
    arrays = to_arrays(state) | {".policy_metrics['policy_loss']": np.zeros(1, np.float32)}
    assert from_arrays(arrays, state) == state
    with pytest.raises(DimeError, match="do not fit"):
        from_arrays(arrays | {".metrics['policy_loss']": np.zeros(1)}, state)
