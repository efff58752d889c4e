"""A changed, cut or missing file of a real run is found by everything that reads it."""

import shutil

import numpy as np
import pytest

import dime
from dime.cli.main import main
from dime.errors import DimeError
from dime.training.run import resume_run
from tests.training.runs import (
    arrays_of,
    assert_same_run,
    checkpoints,
    resume,
    shared_programs,
    start,
    status_of,
)
from tests.training.walk import walks

pytestmark = pytest.mark.promise("R3")

OBS = np.zeros(2, np.float32)


def flip(file):
    """One bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that stopped at env step 32; its other checkpoint is of 30."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    start(folder, callback=lambda record: record["env_step"] == 32)
    assert [path.name for path in checkpoints(folder)] == ["step-000000030", "step-000000032"]
    return folder


@pytest.fixture
def run(stopped, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(stopped, tmp_path / "run")


def own_files(run):
    """The files that only the newest checkpoint needs."""
    newest = checkpoints(run)[-1]
    segments = sorted((run / "checkpoints" / "replay").iterdir())
    return [*sorted(newest.iterdir()), segments[-1]]


NAMES = ["episodes", "manifest", "run", "state", "replay"]


@pytest.mark.parametrize("place", range(5), ids=NAMES)
def test_resume_uses_the_newest_intact_one_and_says_so(run, place, capsys, straight):
    file = own_files(run)[place]
    flip(file)
    with shared_programs():
        assert resume_run(run, walks(), {}).state == "finished"
    out = capsys.readouterr().out
    assert f"warning: {file} is damaged" in out
    assert "warning: Continuing from the checkpoint at env step 30 instead." in out
    assert_same_run(run, straight)
    assert (run / "checkpoints" / "damaged-step-000000032").is_dir()


@pytest.mark.parametrize("place", range(4), ids=NAMES[:4])
def test_everything_but_resume_refuses_and_names_the_other_checkpoints(run, place):
    older = checkpoints(run)[0]
    expected = dime.load_policy(run, "deterministic", checkpoint=older)
    file = own_files(run)[place]
    flip(file)
    told = rf"{file} is damaged.*--checkpoint DIR .*checkpoint=DIR.* There are: {older}\.$"
    for use in (
        lambda **chosen: dime.load_policy(run, "deterministic", **chosen),
        lambda **chosen: dime.evaluate(run, "deterministic", env=walks(), episodes=1, **chosen),
    ):
        with pytest.raises(DimeError, match=told):
            use()
        use(checkpoint=older)
    policy = dime.load_policy(run, "deterministic", checkpoint=older)
    assert policy.env_step == 30
    np.testing.assert_array_equal(policy(OBS), expected(OBS))


def test_a_policy_needs_no_replay(run):
    expected = dime.load_policy(run, "deterministic")(OBS)
    flip(own_files(run)[4])
    np.testing.assert_array_equal(dime.load_policy(run, "deterministic")(OBS), expected)


def test_the_command_line_says_so_too(run, capsys):
    older, newest = checkpoints(run)
    flip(newest / "state.safetensors")
    assert main(["evaluate", str(run)]) == 2
    said = capsys.readouterr().err
    assert f"{newest / 'state.safetensors'} is damaged" in said and str(older) in said
    assert main(["evaluate", str(run), "--checkpoint", str(older)]) == 2
    assert "was passed as a Python object" in capsys.readouterr().err  # the checkpoint was read


def test_refused_when_none_is_intact(run, capsys):
    before = status_of(run)
    for path in checkpoints(run):
        flip(path / "state.safetensors")
    files = [path / "state.safetensors" for path in checkpoints(run)]
    with pytest.raises(DimeError, match="No checkpoint is intact") as caught:
        resume(run)
    assert all(f"{file} is damaged" in str(caught.value) for file in files)
    assert status_of(run) == before
    shutil.rmtree(checkpoints(run)[0])
    with pytest.raises(DimeError, match=f"{files[1]} is damaged.*There is no other one"):
        dime.load_policy(run)


def test_a_named_checkpoint_is_verified(run):
    newest = checkpoints(run)[-1]
    flip(newest / "state.safetensors")
    for use in (dime.load_policy, lambda *a, **k: dime.evaluate(*a, env=walks(), **k)):
        with pytest.raises(DimeError, match="state.safetensors is damaged"):
            use(run, checkpoint=newest)


def test_a_named_checkpoint_that_is_not_there(run):
    with pytest.raises(DimeError, match="step-000000031 is not .*: step-000000032, step-000000030"):
        dime.load_policy(run, checkpoint=run / "checkpoints" / "step-000000031")


def test_a_newer_checkpoint_is_refused(run, monkeypatch):
    monkeypatch.setattr("dime.training.config.FORMAT_VERSION", 0)
    for use in (lambda: resume(run), lambda: dime.load_policy(run)):
        with pytest.raises(DimeError, match=r"format version 1; .* up to 0.*pip install"):
            use()


def test_what_a_killed_save_leaves_is_no_checkpoint(run, straight):
    folder = run / "checkpoints"
    (folder / ".step-000000045.tmp").mkdir()
    (folder / ".step-000000045.tmp" / "state.safetensors").write_bytes(b"half")
    (folder / "replay" / ".000000032-000000045.safetensors.tmp").write_bytes(b"half")
    (folder / "replay" / "000000032-000000045.safetensors").write_bytes(b"of no checkpoint")
    assert resume(run).state == "finished"
    assert_same_run(run, straight)
    assert "replay/47/reward" in arrays_of(run)


def test_a_damaged_run_goes_on_saving_after_it_was_resumed(run, straight):
    """The one set aside is in nobody's way, also where the same step is saved again."""
    flip(checkpoints(run)[-1] / "state.safetensors")
    resume(run, callback=lambda record: record["env_step"] == 32)
    flip(checkpoints(run)[-1] / "state.safetensors")
    assert checkpoints(run)[-1].name == "step-000000032"
    resume(run)
    assert_same_run(run, straight)
