"""The replay on disk: what is new is written, what is needed is kept, what is read is the ring."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dime.training.checkpoint.reader import load_replay
from dime.training.checkpoint.writer import CheckpointFolder, ReplaySaver
from dime.training.config import TrainingConfig
from dime.training.host.programs import store_all
from dime.training.replay import empty_replay, transitions
from dime.types import Counters, EnvSpec, Transition
from tests.training.checkpoints import ACTION_DIM, OBS_DIM, episodes_at, run_at, state_at

SPEC = EnvSpec(OBS_DIM, ACTION_DIM)
SEEDS = [4, 9]
CAPACITY = 10


class Ring:
    """A replay of two seeds, grown and saved as a run does."""

    def __init__(self, folder, capacity=CAPACITY):
        folder.mkdir(exist_ok=True)
        self.checkpoints = CheckpointFolder(folder)
        self.replay = empty_replay(TrainingConfig(replay_capacity=capacity), SPEC, len(SEEDS))
        self.saver = ReplaySaver(self.checkpoints)
        self.num_stored = 0

    def grow(self, count):
        generator = np.random.default_rng(self.num_stored)
        for _ in range(count):
            self.num_stored += 1
            vector, matrix = (2,), (2, SPEC.obs_dim)
            rows = [
                generator.normal(size=shape).astype(np.float32)
                for shape in (matrix, (2, SPEC.action_dim), vector, matrix)
            ]
            rows = [*rows, generator.random(2) < 0.5]
            at = Counters(jnp.int32(self.num_stored), jnp.int32(0))
            self.replay = store_all(self.replay, Transition(*map(jnp.asarray, rows)), at)

    def save(self):
        segments = self.saver.save(self.replay, self.num_stored, SEEDS)
        self.save_with(segments, SEEDS)
        return segments

    def save_with(self, segments, seeds):
        at = self.num_stored
        run = run_at(at, seeds)
        self.checkpoints.save(state_at(at), episodes_at(at, seeds), run, segments)

    def load(self, seeds=SEEDS, capacity=CAPACITY):
        checkpoint, _ = self.checkpoints.load_newest()
        return load_replay(
            checkpoint.replay_files, list(seeds), TrainingConfig(replay_capacity=capacity), SPEC
        )

    def files(self):
        return sorted(path.name for path in self.checkpoints.replay_folder.iterdir())


def assert_equal(replay, other):
    for one, two in zip(jax.tree.leaves(replay), jax.tree.leaves(other), strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("steps", [[3], [10], [3, 4, 6], [4, 10], [7, 25], [1] * 23, [12, 1]])
def test_restored_bit_for_bit(tmp_path, steps):
    ring = Ring(tmp_path)
    for count in steps:
        ring.grow(count)
        ring.save()
    assert_equal(ring.load(), ring.replay)


def test_a_saver_that_continues_writes_what_one_that_never_stopped_does(tmp_path):
    straight, stopped = Ring(tmp_path / "straight"), Ring(tmp_path / "stopped")
    for ring in (straight, stopped):
        for count in (6, 3, 4, 2):
            ring.grow(count)
            segments = ring.save()
            if ring is stopped:
                checkpoint, _ = ring.checkpoints.load_newest()
                ring.saver = ReplaySaver(ring.checkpoints, checkpoint.segments)
                ring.replay = ring.load()
        assert [(s.start, s.stop) for s in segments] == [(0, 6), (6, 9), (9, 13), (13, 15)]
    assert straight.files() == stopped.files()
    for one, other in zip(
        straight.checkpoints.replay_folder.iterdir(),
        stopped.checkpoints.replay_folder.iterdir(),
        strict=True,
    ):
        assert one.read_bytes() == other.read_bytes()
    assert_equal(straight.load(), stopped.load())


def test_only_what_is_new_is_written(tmp_path):
    ring = Ring(tmp_path, capacity=5000)
    ring.grow(1)
    ring.num_stored = 4000  # as if that many had been stored
    ring.save()
    (large,) = ring.checkpoints.replay_folder.iterdir()
    before = large.stat()
    ring.num_stored = 4010
    assert [(s.start, s.stop) for s in ring.save()] == [(0, 4000), (4000, 4010)]
    assert ring.files() == ["000000000-000004000.safetensors", "000004000-000004010.safetensors"]
    assert large.stat().st_mtime_ns == before.st_mtime_ns
    row_bytes = 2 * (2 * 4 * SPEC.obs_dim + 4 * SPEC.action_dim + 4 + 1)  # two seeds
    assert before.st_size == pytest.approx(4000 * row_bytes, abs=600)
    small = ring.checkpoints.replay_folder / "000004000-000004010.safetensors"
    assert small.stat().st_size == pytest.approx(10 * row_bytes, abs=600)
    ring.save()  # nothing new: nothing written
    assert len(ring.files()) == 2


def test_segments_that_no_kept_checkpoint_needs_are_removed(tmp_path):
    ring = Ring(tmp_path)
    for stop in range(4, 41, 4):
        ring.grow(4)
        segments = ring.save()
        assert [s.file for s in segments] == [
            f"{first:09d}-{first + 4:09d}.safetensors"
            for first in range(max(0, (stop - CAPACITY) // 4 * 4), stop, 4)
        ]
        # The checkpoint before this one still needs what has left the ring since.
        oldest = max(0, (stop - 4 - CAPACITY) // 4 * 4)
        assert ring.files() == [
            f"{first:09d}-{first + 4:09d}.safetensors" for first in range(oldest, stop, 4)
        ]
    older = ring.checkpoints.load(ring.checkpoints.steps()[1])
    assert older.env_step == 36
    reward = load_replay(
        older.replay_files, SEEDS, TrainingConfig(replay_capacity=CAPACITY), SPEC
    ).reward
    for number in range(30, 36):  # the ring itself has them still
        np.testing.assert_array_equal(
            reward[:, number % CAPACITY], ring.replay.reward[:, number % CAPACITY]
        )


def test_a_pause_longer_than_the_ring_leaves_a_gap_and_no_old_rows(tmp_path):
    ring = Ring(tmp_path)
    ring.grow(4)
    ring.save()
    ring.grow(30)
    assert [(s.start, s.stop) for s in ring.save()] == [(24, 34)]
    assert_equal(ring.load(), ring.replay)


def test_seeds_are_found_by_name_not_by_place(tmp_path):
    ring = Ring(tmp_path)
    ring.grow(13)
    ring.save()
    both = jax.tree.leaves(ring.replay)
    for seeds, places in (([9], [1]), ([4], [0]), ([9, 4], [1, 0])):
        assert_equal(ring.load(seeds), [leaf[np.array(places)] for leaf in both])
    # After a seed has failed the others' segments go on without it.
    ring.replay = jax.tree.map(lambda leaf: leaf[1:], ring.replay)
    segments = ring.saver.save(ring.replay, 13, [9])
    ring.save_with(segments, [9])
    assert_equal(ring.load([9]), ring.replay)


def test_a_larger_ring_takes_what_a_smaller_one_held(tmp_path):
    ring = Ring(tmp_path)
    ring.grow(8)
    ring.save()
    larger = ring.load(capacity=16)
    assert larger.capacity == 16
    np.testing.assert_array_equal(larger.obs[:, :8], ring.replay.obs[:, :8])
    assert not larger.obs[:, 8:].any()


def test_a_run_that_goes_on_in_half_precision_reads_what_is_beyond_its_range(tmp_path):
    ring = Ring(tmp_path / "checkpoints")
    ring.grow(7)
    far = {name: 1e6 * getattr(ring.replay, name) for name in ("obs", "next_obs", "reward")}
    ring.replay = ring.replay._replace(**far)
    ring.save()
    checkpoint, _ = ring.checkpoints.load_newest()
    storage = TrainingConfig(replay_capacity=CAPACITY, replay_dtype="float16")
    loaded = load_replay(checkpoint.replay_files, SEEDS, storage, SPEC)
    found, put = (
        jax.vmap(lambda r: transitions(r, jnp.arange(7)))(r) for r in (loaded, ring.replay)
    )
    for name in ("obs", "next_obs"):
        expected = np.asarray(getattr(put, name)).clip(-65_504, 65_504).astype(np.float16)
        np.testing.assert_array_equal(getattr(found, name), expected)
    np.testing.assert_array_equal(found.reward, put.reward)
