"""Every release reads the runs of all earlier ones; what a later one wrote is refused.

`fixtures/format-N` was written by the first release of that format, see `fixtures/make_run.py`.
"""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

import dime
from dime.errors import DimeError
from dime.training.records import read_records, write_json
from tests.faults.fixtures.make_run import ENV, OBS
from tests.training.checkpoints import sign_manifest
from tests.training.runs import arrays_of, checkpoints, resume, status_of

pytestmark = pytest.mark.promise("R13")

FIXTURES = sorted(Path(__file__).with_name("fixtures").glob("format-*"))


@pytest.fixture(params=FIXTURES, ids=lambda path: path.name)
def run(request, tmp_path):
    """A copy of a run of an earlier release."""
    return shutil.copytree(request.param, tmp_path / "run")


def test_there_is_one_for_every_format():
    from dime.training.config import FORMAT_VERSION

    assert [path.name for path in FIXTURES] == [f"format-{n + 1}" for n in range(FORMAT_VERSION)]


def test_its_policy_acts_as_it_did(run):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy = dime.load_policy(run, "deterministic")
    assert policy.env_step == 30
    expected = json.loads((run / "expected.json").read_text())
    np.testing.assert_allclose(policy(OBS), expected, rtol=1e-4, atol=1e-6)


def test_it_is_evaluated(run):
    (record,) = dime.evaluate(run, "deterministic", episodes=2)
    assert (record["env_step"], len(record["returns"])) == (30, 2)
    recorded = [r for r in read_records(run / "evaluations.jsonl") if r["mode"] == "deterministic"]
    assert [r["env_step"] for r in recorded] == [0, 16]


def test_it_is_resumed_to_its_end_and_beyond(run):
    before = arrays_of(run)
    assert resume(run, ENV).state == "finished"
    after = arrays_of(run)
    for number in (28, 29):  # transitions from before the resume that the ring has still
        for name in ("obs", "action", "reward", "next_obs", "terminated"):
            place = f"replay/{number}/{name}"
            np.testing.assert_array_equal(after[place], before[place])
    assert resume(run, ENV, num_env_steps=50).state == "finished"
    assert status_of(run)["env_step"] == 50
    assert [path.name for path in checkpoints(run)] == ["step-000000048", "step-000000050"]


def test_one_without_a_sum_in_its_config_is_resumed_too(run):
    content = json.loads((run / "config.json").read_text())
    content.pop("sha256", None)
    write_json(run / "config.json", content)
    assert dime.load_policy(run, "deterministic").env_step == 30
    assert resume(run, ENV).state == "finished"


REMOVED = {
    "at their defaults": {"next_obs_once": False},
    "--next-obs-once": {"next_obs_once": True},
    "--replay-dtype uint8": {"replay_dtype": "uint8"},
}


@pytest.mark.parametrize("used", REMOVED)
def test_one_with_options_that_were_removed_is_read_and_resumed(run, used):
    content = json.loads((run / "config.json").read_text())
    del content["sha256"]
    content["training"] |= REMOVED[used]
    write_json(run / "config.json", content)
    assert dime.load_policy(run, "deterministic").env_step == 30
    assert resume(run, ENV).state == "finished"


def test_other_seeds_than_its_configs_are_refused(run):
    content = json.loads((run / "config.json").read_text())
    del content["sha256"]
    content["training"]["seeds"] = [5, 6]
    write_json(run / "config.json", content)
    with pytest.raises(DimeError, match=r"has the seeds \[0\], which are not among .*\[5, 6\]"):
        resume(run, ENV)


def test_a_newer_config_is_refused(run):
    content = json.loads((run / "config.json").read_text())
    write_json(run / "config.json", content | {"format_version": 99})
    for use in (dime.load_policy, dime.evaluate, lambda path: resume(path, ENV)):
        with pytest.raises(DimeError, match="format version 99; .*pip install --upgrade"):
            use(run)


def test_newer_checkpoints_are_refused_and_left_alone(run):
    for path in checkpoints(run):
        sign_manifest(path, lambda body: body | {"format_version": 99})
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    for use in (dime.load_policy, dime.evaluate, lambda path: resume(path, ENV)):
        with pytest.raises(DimeError, match="format version 99; .*pip install --upgrade"):
            use(run)
    after = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    after.pop(run / ".lock", None)
    assert after == before
