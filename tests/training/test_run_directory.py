"""The folder of a run: where things are, what is refused, who may write."""

import json
import os
import re
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest

from dime.errors import DimeError
from dime.training.presets import make_config
from dime.training.process import SILENT_S, this_process
from dime.training.records import signed
from dime.training.run_directory import RunDirectory
from tests.training.runs import read_lines, resume, start, status_of

CONFIG = {"format_version": 1}


def test_the_default_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = RunDirectory.create_default("dm_control/dog-run", "dime", {}).path
    assert re.fullmatch(
        r"runs/dm_control/dog-run/dime/\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", path.as_posix()
    )
    assert path.is_dir()
    path = RunDirectory.create_default("my_envs:Reach-v1", "dime", {}).path
    assert path.parts[:4] == ("runs", "my_envs", "Reach-v1", "dime")


def test_runs_of_one_second_have_places_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = ["then", *(f"then-{number}" for number in range(2, 20))]
    clock = mock.Mock()
    clock.datetime.now().strftime.return_value = "then"
    monkeypatch.setattr("dime.training.run_directory.datetime", clock)
    place = tmp_path / "runs" / "e" / "dime"
    (place / "then-2").mkdir(parents=True)
    (place / "then-2" / "note").write_text("mine")
    together = threading.Barrier(6)

    def create(number):
        together.wait()
        return RunDirectory.create_default("e", "dime", CONFIG | {"seeds": [number]})

    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(create, range(6)))
    assert sorted(d.path.name for d in made) == ["then", *(f"then-{n}" for n in range(3, 8))]
    assert [directory.config()["seeds"] for directory in made] == [[n] for n in range(6)]
    assert {path.name for path in place.iterdir()} == set(places[:7])


@pytest.mark.parametrize("existed", [False, True])
def test_a_process_that_was_quicker_keeps_the_place(tmp_path, monkeypatch, existed):
    place, write = tmp_path / "run", RunDirectory.write_config
    if existed:
        place.mkdir()
    mkdir = Path.mkdir

    def late(path, *arguments, **options):
        monkeypatch.setattr(Path, "mkdir", mkdir)
        (place / "checkpoints" / "step-000000000").mkdir(parents=True)
        write(RunDirectory(place), CONFIG | {"seeds": "theirs"})
        mkdir(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", late)
    with pytest.raises(DimeError, match=r"run exists already\. Resume it"):
        RunDirectory.create(place, CONFIG)
    assert RunDirectory(place).config()["seeds"] == "theirs"
    assert [path.name for path in (place / "checkpoints").iterdir()] == ["step-000000000"]
    assert list(tmp_path.iterdir()) == [place]


def test_what_is_in_a_run_directory(straight):
    names = {path.name for path in straight.iterdir()} - {".lock"}
    assert names == {
        "config.json", "status.json", "metrics.jsonl", "evaluations.jsonl", "checkpoints",
        "provenance.json",
    }  # fmt: skip
    (begun,) = json.loads((straight / "provenance.json").read_text())["starts"]
    assert {"dime", "git_commit", "device", "versions", "python", "time"} <= set(begun)
    assert begun["versions"]["jax"]
    assert status_of(straight)["state"] == "finished"


def test_records_have_the_documented_names(dime_run):
    evaluations = read_lines(dime_run / "evaluations.jsonl")
    for record in evaluations:
        assert set(record) == {
            "env_step", "updates", "wall_time_s", "seed", "mode", "returns", "lengths",
            "success_any", "success_last", "episode_seeds",
        }  # fmt: skip
    assert [(r["env_step"], r["mode"]) for r in evaluations] == [
        (env_step, mode)
        for env_step in (0, 16, 32, 48)
        for mode in ("stochastic", "deterministic", "best_of_n")
    ]
    by_step = {}
    for record in evaluations:  # every mode plays the same episodes
        by_step.setdefault(record["env_step"], set()).add(tuple(record["episode_seeds"]))
    assert all(len(seeds) == 1 for seeds in by_step.values())
    metrics = read_lines(dime_run / "metrics.jsonl")
    assert [record["env_step"] for record in metrics] == [10, 20, 30, 40, 48]
    assert [record["updates"] for record in metrics] == [0, 16, 36, 56, 72]
    for record in metrics[1:]:
        assert {
            "episode_return", "q_mean", "critic_loss", "critic_entropy", "target_end_mass",
            "policy_loss", "entropy_bound_per_dim", "running_cost", "temperature", "step_sizes",
            "diffusion_scale", "critic_gradient_norm", "policy_gradient_norm", "updates_per_s",
            "env_steps_per_s", "seed", "wall_time_s",
        } <= set(record)  # fmt: skip


def test_the_last_evaluation_is_in_the_status(straight):
    last = status_of(straight)["last_evaluation"]
    records = {r["mode"]: r for r in read_lines(straight / "evaluations.jsonl")}  # the last ones
    expected = {mode: sum(record["returns"]) / 2 for mode, record in records.items()}
    assert last["0"] == pytest.approx(expected)


def test_a_place_that_is_taken_is_refused(tmp_path, straight):
    for taken in (straight, tmp_path / "file"):
        if not taken.exists():
            taken.write_text("")
        with pytest.raises(DimeError, match=r"exists already\. Resume it .*--run-dir"):
            start(taken)


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_is_made_with_its_config_or_not_at_all(tmp_path, monkeypatch, exists):
    place = tmp_path / "run"
    if exists:
        place.mkdir()  # an empty folder is free

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DimeError, match=r"run cannot be made \(No space .*--run-dir"):
            RunDirectory.create(place, {"seeds": 1})
    assert list(tmp_path.rglob("*")) == [place] * exists
    directory = RunDirectory.create(place, {"seeds": 1})
    assert json.loads(directory.config_file.read_text()) == signed({"seeds": 1})
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("place", [".", "link"])
def test_the_current_folder_and_a_link_to_an_empty_one_are_places(place, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / ("empty" if place == "." else "elsewhere"))
    RunDirectory.create(Path(place), {"seeds": 1})
    assert (tmp_path / "empty" / "config.json").exists()


def test_a_place_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DimeError, match="file/run"):
        start(tmp_path / "file" / "run")


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "is not a run: it has no config.json"),
        ("{", "config.json is damaged or not a run's config"),
        ("[]", "config.json is damaged or not a run's config"),
        ("{}", "config.json is damaged or not a run's config"),
        ('{"format_version": 2}', "has format version 2; this release of dime reads up to 1"),
        ('{"format_version": "x"}', "has format version x"),
    ],
)
def test_what_is_not_a_run_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(DimeError, match=re.escape(message)):
        RunDirectory.open(tmp_path)


def test_settings_that_are_refused_are_named_with_their_file(tmp_path):
    directory = RunDirectory.create(tmp_path / "run", CONFIG)
    directory.write_config(make_config("walk").to_json() | {"settings": {"wings": 2}})
    with pytest.raises(DimeError, match=r"run/config\.json: There is no option 'settings\.wings'"):
        directory.run_config()


def test_one_process_at_a_time(tmp_path):
    first, second = RunDirectory(tmp_path), RunDirectory(tmp_path)
    with first.locked():
        with pytest.raises(DimeError, match=f"Another process is training in {tmp_path}"):
            with second.locked():
                pass
    with second.locked():
        pass


def test_every_process_is_noted(tmp_path):
    start(tmp_path / "run", callback=lambda record: record["env_step"] == 20)
    resume(tmp_path / "run")
    starts = json.loads((tmp_path / "run" / "provenance.json").read_text())["starts"]
    assert [begun["env_step"] for begun in starts] == [0, 20]


def test_wall_time_goes_on_where_it_was(tmp_path):
    start(tmp_path / "run", callback=lambda record: record["env_step"] == 20)
    before = status_of(tmp_path / "run")["wall_time_s"]
    file = next((tmp_path / "run" / "checkpoints").glob("step-000000020*")) / "run.json"
    saved = json.loads(file.read_text())["wall_time_s"]
    assert saved <= before
    resume(tmp_path / "run")
    times = [record["wall_time_s"] for record in read_lines(tmp_path / "run" / "metrics.jsonl")]
    assert times == sorted(times) and times[2] > saved > 0.0


def test_a_missing_status_does_not_keep_a_run_from_being_resumed(tmp_path):
    start(tmp_path / "run", callback=lambda record: record["env_step"] == 20)
    (tmp_path / "run" / "status.json").unlink()
    assert resume(tmp_path / "run").state == "finished"
    (tmp_path / "run" / "status.json").write_text("")
    assert resume(tmp_path / "run").state == "finished"  # there is nothing left to do


def gone():
    """A process that has ended, as status.json would have it."""
    with subprocess.Popen(["sleep", "100"]) as process:
        started = int(Path(f"/proc/{process.pid}/stat").read_text().split()[21])
        process.kill()
    return this_process() | {"pid": process.pid, "started": started}


OTHER_HOST = this_process() | {"host": "elsewhere"}
STATES = {
    "here": (this_process, 0.0, "running"),
    "here, silent for long": (this_process, 9 * SILENT_S, "running"),
    "gone": (gone, 0.0, "dead"),
    "another process of its number": (lambda: this_process() | {"started": 1}, 0.0, "dead"),
    "elsewhere": (lambda: OTHER_HOST, 0.9 * SILENT_S, "running"),
    "elsewhere, silent for long": (lambda: OTHER_HOST, 1.1 * SILENT_S, "dead"),
    "in another container": (lambda: gone() | {"namespace": 1}, 0.9 * SILENT_S, "running"),
    "in another container, silent": (lambda: gone() | {"namespace": 1}, 1.1 * SILENT_S, "dead"),
    "of an older release": (lambda: None, 0.9 * SILENT_S, "running"),
    "of an older release, silent for long": (lambda: None, 1.1 * SILENT_S, "dead"),
    "damaged": (lambda: this_process() | {"pid": -1}, 0.0, "running"),
    "without /proc": (lambda: this_process() | {"started": None}, 0.0, "running"),
}


@pytest.mark.parametrize("case", STATES)
def test_a_run_whose_process_is_gone_is_dead(case, tmp_path):
    process, silent_s, state = STATES[case]
    directory = RunDirectory(tmp_path)
    status = {"state": "running", "reason": None, "env_step": 3, "process": process()}
    directory.status_file.write_text(json.dumps(status))
    written = time.time() - silent_s
    os.utime(directory.status_file, (written, written))
    found = directory.status()
    assert (found["state"], found["env_step"]) == (state, 3)
    assert ("dime resume" in str(found["reason"])) == (state == "dead")


def test_a_process_that_nobody_has_waited_for_is_gone(tmp_path):
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        named = this_process() | {"pid": process.pid, "started": None}
        status = {"state": "running", "process": named}
        RunDirectory(tmp_path).status_file.write_text(json.dumps(status))
        assert RunDirectory(tmp_path).status()["state"] == "dead"


def test_only_running_ones_die(tmp_path):
    status = {"state": "interrupted", "reason": "SIGTERM", "process": gone()}
    RunDirectory(tmp_path).status_file.write_text(json.dumps(status))
    assert RunDirectory(tmp_path).status() == status


def test_a_run_notes_its_process(straight):
    assert status_of(straight)["process"] == this_process()
