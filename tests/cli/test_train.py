"""What a training command leaves at its end, and what it says where it cannot."""

from types import SimpleNamespace

import imageio
import pytest

from dime.algorithms.registry import ALGORITHMS
from dime.cli import train
from dime.cli.main import main
from dime.errors import DimeError
from tests.figures.make_run import make_run
from tests.training.runs import SCHEDULE, as_words, read_lines
from tests.training.toy import TOY


@pytest.mark.parametrize(
    "error, said",
    [
        (RuntimeError("no codec"), "RuntimeError: no codec"),
        (BrokenPipeError("ffmpeg is gone"), "BrokenPipeError: ffmpeg is gone"),
        (DimeError("Install an encoder."), "Install an encoder."),
    ],
)
def test_why_there_is_no_video(error, said, tmp_path, monkeypatch, capsys):
    def film(*arguments):
        raise error

    restored = SimpleNamespace(
        config=SimpleNamespace(
            env="", algorithm="dime", training=SimpleNamespace(env_process=False)
        )
    )
    monkeypatch.setattr(train, "restore_agents", lambda run_dir: restored)
    monkeypatch.setattr(train, "record_video", film)
    run = make_run(tmp_path / "run")
    train.leave_pictures(run, video=True)
    picture, no_video = capsys.readouterr().out.splitlines()
    assert picture == f"wrote {run / 'learning_curve.png'}" and no_video == f"no video: {said}"


def test_without_evaluations_and_encoder_a_run_is_still_a_good_one(tmp_path, monkeypatch, capsys):
    def get_writer(*arguments, **options):
        raise OSError("no ffmpeg")

    monkeypatch.setattr(imageio, "get_writer", get_writer)
    monkeypatch.setitem(ALGORITHMS, "toy", TOY)
    options = SCHEDULE | {"batch_size": 8, "evaluation_modes": [], "run_dir": tmp_path / "run"}
    assert main(["train", "dime/MultiGoal-v0", "--algorithm", "toy", *as_words(options)]) == 0
    out = capsys.readouterr().out
    assert "no video: OSError: no ffmpeg" in out
    assert f"no learning curve: {tmp_path / 'run'} has no evaluations" in out
    assert read_lines(tmp_path / "run" / "evaluations.jsonl") == []
