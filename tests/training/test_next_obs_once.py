"""Next observations kept once: the same transitions, the same runs, in less memory."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dime.training.config
from dime.errors import DimeError
from dime.training.checkpoint.replay_files import ReplaySaver, load_replay
from dime.training.config import TrainingConfig
from dime.training.host.episode_ends import EpisodeEnds
from dime.training.host.programs import initialise_replay, store_all
from dime.training.replay import Storage, sample_batch, transitions, with_room_for_ends
from dime.types import Counters, EnvSpec, Transition
from tests.training.checkpoints import ACTION_DIM, OBS_DIM, episodes_at, run_at, state_at
from tests.training.jax_walk import jax_walk
from tests.training.runs import arrays_of, position_of, read_lines, resume, start, without_times
from tests.training.test_replay_files import SEEDS, CheckpointFolder
from tests.training.walk import at, walks

SPEC = EnvSpec(OBS_DIM, ACTION_DIM)
STORE = jax.jit(store_all)


class Streams:
    """Episodes of random lengths for two seeds, put into rings of both kinds."""

    def __init__(self, capacity, room, lengths=4):
        self.generator = np.random.default_rng(0)
        self.plain = initialise_replay(Storage(capacity), SPEC, 2)
        self.once = initialise_replay(Storage(capacity, room_for_ends=room), SPEC, 2)
        self.ends = EpisodeEnds(self.once, 0)
        self.obs = self.fresh(2)
        self.num_stored, self.lengths = 0, lengths
        self.most_ends = 0

    def fresh(self, count):
        return self.generator.normal(size=(count, SPEC.obs_dim)).astype(np.float32)

    def step(self):
        next_obs = self.fresh(2)
        rows = Transition(
            obs=jnp.asarray(self.obs),
            action=jnp.asarray(self.generator.normal(size=(2, SPEC.action_dim)), jnp.float32),
            reward=jnp.asarray(self.generator.normal(size=2), jnp.float32),
            next_obs=jnp.asarray(next_obs),
            terminated=jnp.asarray(self.generator.random(2) < 0.5),
        )
        self.most_ends = self.ends.add(self.num_stored, rows)
        self.num_stored += 1
        counters = Counters(jnp.int32(self.num_stored), jnp.int32(0))
        self.plain, self.once = (STORE(ring, rows, counters) for ring in (self.plain, self.once))
        ended = self.generator.random(2) < 1.0 / self.lengths
        self.obs = np.where(ended[:, None], self.fresh(2), next_obs)

    def all_of(self, replay, most=1000):
        oldest = max(0, self.num_stored - min(replay.capacity, most))
        numbers = jnp.arange(oldest, self.num_stored)
        return jax.vmap(transitions, in_axes=(0, None))(replay, numbers)


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


SOAK = pytest.mark.soak


@pytest.mark.parametrize(
    ("capacity", "lengths"),
    [(7, 3), *(pytest.param(*sizes, marks=SOAK) for sizes in ((1, 2), (12, 1), (9, 50)))],
)
def test_the_ring_gives_the_same_transitions(capacity, lengths):
    streams = Streams(capacity, room=capacity, lengths=lengths)
    for _ in range(4 * capacity + 5):
        streams.step()
        assert_equal(streams.all_of(streams.once), streams.all_of(streams.plain))
    drawn = []
    for replay in (streams.once, streams.plain):
        of_a_seed = jax.tree.map(lambda leaf: leaf[1], replay)
        num_stored = jnp.int32(streams.num_stored)
        drawn.append(sample_batch(of_a_seed, num_stored, 16, jax.random.key(0)))
    assert_equal(*drawn)


@SOAK
def test_room_for_as_many_ends_as_are_counted_is_enough_and_more_changes_nothing():
    streams = Streams(capacity=10, room=1, lengths=3)
    grew = 0
    for _ in range(60):
        before = streams.once
        streams.step()
        if streams.most_ends > before.rows.next_obs.shape[1]:
            # As a run does: more room first, then the transition that needs it.
            later, streams.once = streams.once, with_room_for_ends(before, streams.most_ends)
            rows = jax.tree.map(lambda leaf: leaf[:, 0], streams.all_of(streams.plain))
            newest = streams.all_of(streams.plain)
            rows = jax.tree.map(lambda leaf: leaf[:, -1], newest)
            counters = Counters(jnp.int32(streams.num_stored), jnp.int32(0))
            streams.once = store_all(streams.once, rows, counters)
            assert later.num_ends.tolist() == streams.once.num_ends.tolist()
            grew += 1
        assert_equal(streams.all_of(streams.once), streams.all_of(streams.plain))
    assert grew > 1 and streams.once.rows.next_obs.shape[1] < 10


@pytest.mark.parametrize("steps", [[3], [4, 6], [25], [7, 25], [1] * 13], ids=str)
@pytest.mark.parametrize("room", [1, 10])
def test_it_is_restored_from_files_that_are_those_of_any_run(tmp_path, steps, room):
    streams = Streams(capacity=10, room=10, lengths=3)
    savers = {}
    for kind in ("plain", "once"):
        (tmp_path / kind).mkdir()
        savers[kind] = ReplaySaver(CheckpointFolder(tmp_path / kind))
    for count in steps:
        for _ in range(count):
            streams.step()
        for kind, saver in savers.items():
            segments = saver.save(getattr(streams, kind), streams.num_stored, SEEDS)
            number = streams.num_stored
            CheckpointFolder(tmp_path / kind).save(
                state_at(number), episodes_at(number, SEEDS), run_at(number, SEEDS), segments
            )
    plain, once = (sorted((tmp_path / kind).rglob("0*.safetensors")) for kind in savers)
    assert [file.read_bytes() for file in plain] == [file.read_bytes() for file in once]
    files = CheckpointFolder(tmp_path / "once").load_newest()[0].replay_files
    for capacity in (4, 13):
        other, plain = (
            load_replay(files, SEEDS, Storage(capacity, room_for_ends=room), SPEC)
            for room in (1, None)
        )
        assert_equal(streams.all_of(other, 10), streams.all_of(plain, 10))
    restored = load_replay(files, SEEDS, Storage(10, room_for_ends=room), SPEC)
    assert_equal(streams.all_of(restored), streams.all_of(streams.plain))
    streams.once, streams.ends = restored, EpisodeEnds(restored, streams.num_stored)
    for _ in range(8):
        if streams.most_ends >= streams.once.rows.next_obs.shape[1] - 1:
            streams.once = with_room_for_ends(streams.once, 10)
        streams.step()
        assert_equal(streams.all_of(streams.once), streams.all_of(streams.plain))


def test_it_takes_about_half_of_the_memory():
    def row_bytes(**options):
        storage = TrainingConfig(**options).storage()
        shapes = jax.eval_shape(lambda: initialise_replay(storage, EnvSpec(223, 38), 1))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)) / 1e6

    assert row_bytes() == 4 * (2 * 223 + 38 + 1) + 1  # exactly the transitions of dog-run
    assert row_bytes(next_obs_once=True) == pytest.approx(4 * (223 + 38 + 2) + 1, rel=2e-3)
    assert row_bytes(replay_dtype="float16") == 2 * 2 * 223 + 4 * 39 + 1
    assert row_bytes(replay_dtype="uint8") == 2 * 223 + 4 * 39 + 1


@pytest.fixture
def little_room(monkeypatch):
    """Rings begin with room for one end, so that runs need more."""
    monkeypatch.setattr(dime.training.config, "_FIRST_ENDS", 1)


def assert_same_run(one, other):
    assert_equal(arrays_of(one), arrays_of(other))
    assert position_of(one) == position_of(other)
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        lines = [without_times(read_lines(folder / name)) for folder in (one, other)]
        for line in itertools.chain(*lines):
            line.pop("env_steps_per_s", None), line.pop("updates_per_s", None)
        assert lines[0] == lines[1]


@pytest.mark.parametrize("overlap", [False, True])
def test_a_run_is_the_same_to_the_last_bit_also_resumed(tmp_path, little_room, overlap):
    start(tmp_path / "plain", overlap=overlap)
    start(tmp_path / "once", next_obs_once=True, overlap=overlap)
    assert_same_run(tmp_path / "once", tmp_path / "plain")
    records = itertools.count(1)
    options = {"next_obs_once": True, "overlap": overlap}
    part = start(tmp_path / "part", callback=lambda _: next(records) > 7, **options)
    assert part.state == "interrupted" and 16 <= part.env_step < 48
    resume(tmp_path / "part")
    assert_same_run(tmp_path / "part", tmp_path / "plain")


def test_an_episode_cut_by_an_error_is_an_end_too(tmp_path, little_room):
    def broken():
        raise RuntimeError("out of order")

    for kind, once in (("plain", False), ("once", True)):
        factory = walks(at(0, 17, broken))
        options = {"next_obs_once": once, "max_env_restarts": 3}
        assert start(tmp_path / kind, env=factory, **options).state == "finished"
    assert_same_run(tmp_path / "once", tmp_path / "plain")


def test_the_others_go_on_when_a_seed_fails(tmp_path, little_room):
    def broken():
        raise RuntimeError("out of order")

    for kind, once in (("plain", False), ("once", True)):
        factory = walks(at(0, 17, broken))
        assert start(tmp_path / kind, env=factory, seeds=[0, 5], next_obs_once=once)
    assert_equal(arrays_of(tmp_path / "once"), arrays_of(tmp_path / "plain"))


def test_it_is_refused_where_environments_are_in_the_learners_program(tmp_path):
    with pytest.raises(DimeError, match="--next-obs-once does not go with"):
        start(tmp_path / "run", env=jax_walk, next_obs_once=True)
    assert not (tmp_path / "run").exists()
