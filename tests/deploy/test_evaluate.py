"""Evaluating a run from outside: the run's own evaluation again, and videos."""

import json

import imageio
import numpy as np
import pytest

import dime
import dime.deploy.evaluate
from dime.deploy.evaluate import write_video
from dime.errors import DimeError
from tests.training.runs import checkpoints, read_lines, start
from tests.training.walk import Walk, walks

MODES = ["stochastic", "deterministic", "best_of_n"]


def evaluations(run_dir, env_step, mode):
    """The run's own records, without times, by seed."""
    records = read_lines(run_dir / "evaluations.jsonl")
    return [
        {name: value for name, value in record.items() if name != "wall_time_s"}
        for record in records
        if (record["env_step"], record["mode"]) == (env_step, mode)
    ]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run of two seeds."""
    folder = tmp_path_factory.mktemp("two") / "run"
    start(folder, seeds=[0, 7])
    return folder


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    """A run on the multi-goal plane, which can be recorded anywhere."""
    folder = tmp_path_factory.mktemp("plane") / "run"
    start(folder, "dime/MultiGoal-v0", seeds=[3])
    return folder


@pytest.mark.parametrize("mode", MODES)
def test_the_runs_own_last_evaluation_is_repeated_exactly(straight, mode):
    for _ in range(2):
        (record,) = dime.evaluate(straight, mode, env=walks())
        assert [record] == evaluations(straight, 48, mode)


@pytest.mark.parametrize("mode", MODES)
def test_of_two_seeds_too(two, mode):
    records = dime.evaluate(two, mode, env=walks())
    assert records == evaluations(two, 48, mode)
    assert records[0]["returns"] != records[1]["returns"]


def test_more_episodes_begin_with_the_same(two):
    env = walks()
    records = dime.evaluate(two, "stochastic", env=env, episodes=5)
    for record, own in zip(records, evaluations(two, 48, "stochastic"), strict=True):
        for name in ("returns", "lengths", "episode_seeds"):
            assert len(record[name]) == 5
            assert record[name][:2] == own[name]
        assert len(set(record["episode_seeds"])) == 5
    # As many at a time as in the run: two of each seed, and the last one alone.
    assert [len(walk.reset_seeds) for walk in env.made] == [3, 3, 2, 2]
    assert all(walk.closed for walk in env.made)


class Alike(Walk):
    """All episodes are the same, but for the actions."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=0)


def test_every_episode_has_random_numbers_of_its_own(straight):
    (record,) = dime.evaluate(straight, env=Alike, episodes=4)
    assert len(set(record["returns"])) == 4


def test_of_an_older_checkpoint(straight):
    older = checkpoints(straight)[0]
    (record,) = dime.evaluate(straight, env=walks(), checkpoint=older)
    assert (record["env_step"], record["updates"]) == (45, 66)


def test_nothing_is_written(straight):
    before = {path: path.stat().st_mtime_ns for path in straight.rglob("*")}
    dime.evaluate(straight, env=walks())
    assert {path: path.stat().st_mtime_ns for path in straight.rglob("*")} == before


def test_refusals(straight, tmp_path):
    with pytest.raises(DimeError, match="no mode 'greedy'"):
        dime.evaluate(straight, "greedy", env=walks())
    with pytest.raises(DimeError, match="episodes is 0; it must be at least 1"):
        dime.evaluate(straight, env=walks(), episodes=0)
    with pytest.raises(DimeError, match=r"Python object \(.*make_walk.*evaluate.*env="):
        dime.evaluate(straight)
    with pytest.raises(DimeError, match="is not a run"):
        dime.evaluate(tmp_path)


def read_video(file):
    with imageio.get_reader(file) as video:
        return [np.asarray(frame) for frame in video], video.get_meta_data()


# imageio's reader does not close the pipes of its decoder.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_a_video(plane, tmp_path):
    file = tmp_path / "video.mp4"
    (record,) = dime.evaluate(plane, "stochastic", video=file)
    assert [record] == evaluations(plane, 48, "stochastic")
    frames, facts = read_video(file)
    assert len(frames) == 1 + record["lengths"][0]  # the first episode of the first seed
    assert facts["fps"] == pytest.approx(10.0)
    assert facts["codec"] == "h264"
    assert facts["size"] == (256, 256)
    shown = {np.round(frame / 64).astype(np.uint8).tobytes() for frame in frames}
    assert len(shown) > 1
    # The path grows: blue where the background was.
    blue = [((frame[..., 2] > 150) & (frame[..., 0] < 100)).sum() for frame in frames]
    assert blue[-1] > blue[0]


def test_a_video_without_an_encoder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(dime.deploy.evaluate.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DimeError, match=r"pip install 'dime-rl\[video\]'"):
        write_video(tmp_path / "video.mp4", [], 30.0)
    assert not (tmp_path / "video.mp4").exists()


def test_a_video_of_another_format_is_refused(tmp_path):
    with pytest.raises(DimeError, match=r"must end in \.mp4, got .*video\.gif"):
        write_video(tmp_path / "video.gif", [], 30.0)


def test_an_environment_that_cannot_be_recorded_is_refused(straight, tmp_path):
    with pytest.raises(DimeError, match="has no render mode"):
        dime.evaluate(straight, env=walks(), video=tmp_path / "video.mp4")


def test_the_config_of_a_run_says_how_it_is_evaluated(straight):
    training = json.loads((straight / "config.json").read_text())["training"]
    (record,) = dime.evaluate(straight, env=walks())
    assert len(record["returns"]) == training["num_evaluation_episodes"]


def test_errors_of_a_video_cost_no_episodes(plane, tmp_path, monkeypatch):
    def play(*arguments):
        raise AssertionError("played")

    monkeypatch.setattr("dime.deploy.evaluate._play", play)
    for file, reason in (("video.avi", "must end in .mp4"), ("no/video.mp4", "no folder to write")):
        with pytest.raises(DimeError, match=reason):
            dime.evaluate(plane, video=tmp_path / file)


def test_an_environment_of_other_spaces_is_refused(straight):
    with pytest.raises(DimeError, match="spaces are no longer those of"):
        dime.evaluate(straight, env="dime/TwoModeBandit-v0")
