"""A seed's stream of episodes: true successors, seeds of its own, and the way back into one."""

import itertools

import numpy as np
import pytest

from dime.envs.environment import Environment
from dime.training.host.episodes import EVALUATION, TRAINING, EpisodeStream, episode_seed
from dime.training.host.evaluation import evaluation_seeds
from tests.envs.stub import Stub
from tests.training.walk import EPISODE_STEPS, Walk, walks


def stream_of(env, seed=3):
    stream = EpisodeStream(Environment(env), seed, 0, {}, True)
    stream.begin()
    return stream


def actions(count, seed=0):
    return list(np.random.default_rng(seed).uniform(-1, 1, (count, 2)).astype(np.float32))


def test_seeds_differ_by_seed_stream_and_number():
    training = {episode_seed(seed, TRAINING, n) for seed in range(5) for n in range(100)}
    evaluation = {
        episode_seed(seed, EVALUATION, env_step, n)
        for seed in range(5)
        for env_step in (0, 1, 500)
        for n in range(30)
    }
    seeds = training | evaluation
    assert len(seeds) == 500 + 450
    assert all(0 <= seed < 2**31 and isinstance(seed, int) for seed in seeds)
    assert episode_seed(0, TRAINING, 1) == episode_seed(0, TRAINING, 1)


def test_evaluations_have_seeds_of_their_own():
    steps = [
        seed
        for run_seed, env_step in itertools.product((0, 1), (0, 500))
        for seed in evaluation_seeds(run_seed, env_step, 5)
    ]
    training = [episode_seed(seed, TRAINING, number) for seed in (0, 1) for number in range(600)]
    assert len({*steps, *training}) == len(steps) + len(training)
    assert evaluation_seeds(0, 500, 3) == evaluation_seeds(0, 500, 5)[:3]


def test_every_episode_is_reset_with_its_own_seed():
    walk = Walk()
    stream = stream_of(walk)
    while stream.number < 4:
        stream.step(np.zeros(2, np.float32))
    assert walk.reset_seeds == [episode_seed(3, TRAINING, number) for number in range(5)]


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_the_true_successor_is_stored_where_an_episode_ends(end):
    last = np.array([7.0, 8.0])
    stream = stream_of(Stub({2: {"obs": last, end: True}}))
    first = stream.step(np.zeros(1, np.float32))
    np.testing.assert_array_equal(first.obs, [0, 0])
    np.testing.assert_array_equal(first.next_obs, [1, 1])
    np.testing.assert_array_equal(stream.obs, [1, 1])
    assert not first.terminated
    ended = stream.step(np.full(1, 0.5, np.float32))
    np.testing.assert_array_equal(ended.obs, [1, 1])
    np.testing.assert_array_equal(ended.next_obs, last)
    np.testing.assert_array_equal(stream.obs, [0, 0])  # of the reset
    np.testing.assert_array_equal(ended.action, [0.5])
    assert ended.terminated == (end == "terminated")  # a time limit is not a termination
    assert (stream.number, stream.last_return, stream.last_length) == (1, 2.0, 2)
    assert (stream.episode_return, stream.actions) == (0.0, [])


def test_a_time_limit_can_count_as_the_end():
    ends = {2: {"truncated": True}}
    stream = EpisodeStream(Environment(Stub(ends)), 3, 0, {}, False)
    stream.begin()
    observed = [stream.step(np.zeros(1, np.float32)) for _ in range(2)]
    assert [one.terminated for one in observed] == [False, True]


def test_what_is_observed_is_what_the_environment_answered():
    walk = Walk()
    stream = stream_of(walk)
    observed, acting_obs = [], []
    for action in actions(40):
        observed.append(stream.step(action))
        acting_obs.append(stream.obs)
    for one, (obs, action, reward, next_obs, terminated, _) in zip(observed, walk.log, strict=True):
        np.testing.assert_array_equal(one.obs, obs)
        np.testing.assert_array_equal(one.action, action)
        np.testing.assert_array_equal(one.next_obs, next_obs)
        assert (one.reward, one.terminated) == (np.float32(reward), terminated)
    np.testing.assert_array_equal(acting_obs[:-1], [one.obs for one in observed[1:]])
    ends = [truncated or terminated for *_, terminated, truncated in walk.log]
    assert stream.number == sum(ends)
    assert {end for *_, terminated, truncated in walk.log for end in (terminated, truncated)} == {
        True,
        False,
    }


def saved(stream):
    """What a checkpoint keeps of a stream."""
    taken = np.array(stream.actions, np.float32).reshape(-1, 2)
    return stream.position(), taken, stream.obs.copy()


@pytest.mark.parametrize("count", [0, 1, 6, 17, 18, 19, 20, 21, 22, 23, 24, 25])
def test_restored_where_it_was(count):
    straight = stream_of(Walk())
    for action in actions(count):
        straight.step(action)
    restored = EpisodeStream(Environment(Walk()), 3, 0, {}, True)
    assert restored.restore(*saved(straight))
    assert restored.position() == straight.position()
    np.testing.assert_array_equal(restored.obs, straight.obs)
    for action in actions(20, seed=1):
        one, other = straight.step(action), restored.step(action)
        for mine, theirs in zip(one, other, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert restored.position() == straight.position()


class Wilful(Walk):
    """Does not do as its seed says."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None)


def test_an_environment_that_does_not_follow_begins_a_new_episode():
    stream = stream_of(Wilful())
    while stream.number < 1 or len(stream.actions) < 2:
        stream.step(np.zeros(2, np.float32))
    walk = Wilful()
    restored = EpisodeStream(Environment(walk), 3, 0, {}, True)
    assert not restored.restore(*saved(stream))
    assert restored.number == stream.number + 1
    assert (restored.actions, restored.episode_return) == ([], 0.0)
    assert (restored.last_return, restored.last_length) == (stream.last_return, stream.last_length)
    np.testing.assert_array_equal(restored.obs, walk.position.astype(np.float32))


def test_an_episode_that_ends_too_early_does_not_follow():
    stream = stream_of(Walk())
    position, _, obs = saved(stream)
    too_many = np.zeros((EPISODE_STEPS + 2, 2), np.float32)
    assert not EpisodeStream(Environment(Walk()), 3, 0, {}, True).restore(position, too_many, obs)


class Jammed(Walk):
    """Can be reset only once."""

    def reset(self, *, seed=None, options=None):
        if self.reset_seeds:
            raise RuntimeError("jammed")
        return super().reset(seed=seed)


def test_where_the_next_reset_fails_the_stream_is_as_before_the_step():
    stream = stream_of(Jammed())
    with pytest.raises(RuntimeError, match="jammed"):
        while True:
            before = saved(stream)
            stream.step(np.zeros(2, np.float32))
    for mine, theirs in zip(saved(stream), before, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert stream.number == 0 and len(stream.actions) > 0
    mended = EpisodeStream(Environment(Walk()), 3, 0, {}, True)
    assert mended.restore(*saved(stream))
    mended.step(np.zeros(2, np.float32))
    assert (mended.number, mended.last_length) == (1, len(stream.actions) + 1)


def test_streams_of_two_seeds_differ():
    make = walks()
    one, other = stream_of(make(), seed=0), stream_of(make(), seed=1)
    assert not np.array_equal(one.obs, other.obs)
