"""A study's folder, a trial by itself, copies on other storage; all of it without Ray."""

import json
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dime.cli.main import main
from dime.errors import DimeError
from dime.figures.runs import open_study
from dime.sweeps import folder as study_folder
from dime.sweeps.folder import StudyFolder, run_trial
from dime.sweeps.study import read_study, trials_of
from dime.training.process import this_process
from dime.training.run_directory import RunDirectory
from tests.training.runs import assert_same_run, read_lines, status_of

STUDY = {
    "name": "small",
    "description": "Two seeds",
    "environments": ["dime/TwoModeBandit-v0"],
    "algorithms": ["sac"],
    "preset": "laptop",
    "seeds": 2,
    "settings": {
        "num_env_steps": 30,
        "num_random_steps": 10,
        "evaluate_every": 10,
        "log_every": 10,
        "checkpoint_every": 10,
        "batch_size": 4,
        "tensorboard": False,
    },
}
FIRST = "dime-TwoModeBandit-v0_sac_seed-0"


def plan(folder, **changes):
    study = read_study(STUDY | changes)
    trials = trials_of(study)
    StudyFolder(folder).plan(study, "its source", trials)
    return trials


def longer(steps):
    return {"settings": STUDY["settings"] | {"num_env_steps": steps}}


def test_a_trial_begins_goes_on_and_is_left_alone_once_it_has_finished(tmp_path):
    first, second = plan(tmp_path / "small")
    stopped = run_trial(tmp_path / "small", first, callback=lambda r: r["env_step"] >= 10)
    assert stopped.state == "interrupted" and stopped.env_step < 30
    assert not StudyFolder(tmp_path / "small").is_finished(first)
    assert run_trial(tmp_path / "small", first).state == "finished"
    assert run_trial(tmp_path / "small", first) is None
    plan(tmp_path / "straight")
    run_trial(tmp_path / "straight", first)
    assert_same_run(tmp_path / "small" / FIRST, tmp_path / "straight" / FIRST)


def test_a_trial_whose_process_is_still_there_is_waited_for(tmp_path, monkeypatch):
    """After a sweep was killed its workers end a little later; until then the run is theirs."""
    (first, *_) = plan(tmp_path)
    directory = RunDirectory.create(tmp_path / first.name, first.config.to_json())
    held, events = threading.Event(), []

    def hold():
        with directory.locked():
            held.set()
            time.sleep(0.3)
            events.append("left")

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10.0)
    monkeypatch.setattr(study_folder, "resume_run", lambda *_: events.append("resumed"))
    run_trial(tmp_path, first)
    holder.join()
    assert events == ["left", "resumed"]


def test_a_plan_may_grow_but_what_has_begun_keeps_its_settings(tmp_path):
    first, _ = plan(tmp_path / "small")
    run_trial(tmp_path / "small", first)
    trials = plan(tmp_path / "small", seeds=3, algorithms=["sac", "crossq"])
    assert len(trials) == 6
    extended, *_ = plan(tmp_path / "small", **longer(40))
    assert run_trial(tmp_path / "small", extended).env_step == 40
    for changes in (longer(20), {"settings": STUDY["settings"] | {"batch_size": 5}}):
        with pytest.raises(DimeError, match="has begun in .* with other settings: training"):
            plan(tmp_path / "small", **changes)


def test_the_jobs_of_an_array_may_start_together(tmp_path):
    together = threading.Barrier(8)

    def job(number):
        together.wait()
        return len(plan(tmp_path / "small"))

    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert list(pool.map(job, range(8))) == [2] * 8
    assert len(StudyFolder(tmp_path / "small").trials()) == 2


def test_a_plan_that_an_editor_has_written(tmp_path):
    planned = plan(tmp_path / "small")
    folder = StudyFolder(tmp_path / "small")
    folder.file.write_text(folder.file.read_text(), "utf-8-sig")
    assert folder.trials() == planned
    assert len(open_study(folder.path).trials) == 2


def test_why_a_trial_has_not_finished(tmp_path):
    folder = StudyFolder(tmp_path)
    assert folder.reason("a") == "no reason is known"
    (tmp_path / "a").mkdir()
    status = {"state": "running", "process": this_process() | {"started": 1}}
    (tmp_path / "a" / "status.json").write_text(json.dumps(status))
    assert "its process is gone" in folder.reason("a")


def test_folders_that_cannot_be_written_or_read(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DimeError, match="cannot be written"):
        plan(tmp_path / "file" / "small")
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(DimeError, match="damaged or not a study's"):
        StudyFolder(tmp_path).trials()


def saved_and_queued_again(tmp_path, script):
    """SLURM tells the batch shell alone of the preemption; the run is to hear of it and to save."""
    tools = tmp_path / "tools"
    tools.mkdir()
    heeds = 'trap "echo saved > saved; exit 75" TERM; touch begun; while true; do sleep 0.05; done'
    for name, text in {"dime": heeds, "scontrol": 'echo "$*" > queued'}.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(0o755)
    environment = {
        "PATH": f"{tools}:/usr/bin:/bin",
        "SLURM_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": "1",
    }
    process = subprocess.Popen(["bash", str(script)], cwd=tmp_path, env=environment)
    while not (tmp_path / "begun").exists():
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=30) == 75
    assert (tmp_path / "saved").exists() and (tmp_path / "queued").read_text() == "requeue 7\n"


def toml(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [f"{k} = {json.dumps(v)}" for k, v in STUDY.items() if k not in ("name", "settings")]
    settings = [f"{k} = {json.dumps(v)}" for k, v in STUDY["settings"].items()]
    (tmp_path / "small.toml").write_text("\n".join([*lines, "[settings]", *settings]))


def test_a_dry_run_lists_trials_and_hours_and_makes_nothing(tmp_path, monkeypatch, capsys):
    toml(tmp_path, monkeypatch)
    figures = {
        "machine": {"device": "abacus"},
        "preset": "laptop",
        "algorithms": [{"algorithm": "sac", "update_ms": 3.6e6, "act_ms": 0.0}],
    }
    (tmp_path / "figures.json").write_text(json.dumps(figures))
    assert main(["sweep", "small.toml", "--dry-run", "--figures", "figures.json"]) == 0
    out = capsys.readouterr().out
    updates = 20 * trials_of(read_study(STUDY))[0].config.training.updates_per_env_step
    assert FIRST in out and f"{updates:.2f}" in out and f"{2 * updates:.1f} hours" in out
    assert "abacus" in out
    assert not (tmp_path / "runs").exists()
    (tmp_path / "figures.json").write_text("{}")
    assert main(["sweep", "small.toml", "--dry-run", "--figures", "figures.json"]) == 2


def test_the_job_array_runs_each_trial_by_its_number(tmp_path, monkeypatch, capsys):
    toml(tmp_path, monkeypatch)
    assert main(["sweep", "small.toml", "--emit", "slurm", "--storage", "there"]) == 0
    script = tmp_path / "there" / "small" / "sweep.sbatch"
    assert f"wrote {script}" in capsys.readouterr().out
    text = script.read_text()
    assert "--array=0-1" in text and "--cpus-per-task=1" in text
    saved_and_queued_again(tmp_path, script)
    words = ["sweep", str(tmp_path / "small.toml"), "--storage", str(tmp_path / "there")]
    assert " ".join(words) in text
    assert main([*words, "--trial", "1"]) == 0
    run = tmp_path / "there" / "small" / "dime-TwoModeBandit-v0_sac_seed-1"
    assert status_of(run)["state"] == "finished"
    assert main([*words, "--trial", "1"]) == 0
    assert main([*words, "--trial", "2"]) == 2
    assert "has the trials 0 to 1" in capsys.readouterr().err


def test_a_run_on_other_storage_is_copied_there_and_resumed_from_there(tmp_path):
    uri = f"file://{tmp_path / 'bucket'}"
    first, _ = plan(tmp_path / "small")
    there = tmp_path / "bucket" / "small" / FIRST

    driver = StudyFolder.open(uri, "small")
    driver.plan(read_study(STUDY), "its source", [first])
    driver.push_small()
    assert open_study(there.parent).trials == (FIRST,)
    worker = StudyFolder.open(uri, "small")

    def push(record):
        worker.push(FIRST)
        return record["env_step"] >= 20

    worker.pull(FIRST)
    run_trial(worker.path, first, push)
    worker.push(FIRST)
    kept = {path.name for path in (worker.path / FIRST / "checkpoints").iterdir()}
    assert {path.name for path in (there / "checkpoints").iterdir() if any(path.iterdir())} == kept

    other = StudyFolder.open(uri, "small")
    assert other.path != worker.path
    other.pull(FIRST)
    assert run_trial(other.path, first, lambda r: other.push(FIRST)).env_step == 30
    other.push(FIRST)
    plan(tmp_path / "straight")
    run_trial(tmp_path / "straight", first)
    assert_same_run(other.path / FIRST, tmp_path / "straight" / FIRST)

    driver = StudyFolder.open(uri, "small")
    driver.pull_records()
    records = driver.path / FIRST
    assert read_lines(records / "evaluations.jsonl") == read_lines(there / "evaluations.jsonl")
    assert not list(records.glob("checkpoints/*"))


def test_storage_that_is_none(tmp_path):
    with pytest.raises(DimeError, match="cannot be written"):
        StudyFolder.open("nosuch://bucket/path", "small")
    (tmp_path / "file").write_text("")
    with pytest.raises(DimeError, match="cannot be written"):
        StudyFolder.open(f"file://{tmp_path}/file/below", "small")


def test_what_has_begun_stays_in_the_plan_and_other_files_are_not_overwritten(tmp_path):
    first, second = plan(tmp_path / "small")
    run_trial(tmp_path / "small", first)
    plan(tmp_path / "small", seeds=[5])
    names = [trial.name for trial in StudyFolder(tmp_path / "small").trials()]
    assert names == ["dime-TwoModeBandit-v0_sac_seed-5", FIRST]
    for text in (
        '{"a"',
        "[]",
        json.dumps({"format_version": 99, "name": "", "trials": [], "varied": []}),
    ):
        (tmp_path / "small" / "study.json").write_text(text)
        with pytest.raises(DimeError, match=r"study\.json"):
            plan(tmp_path / "small")
        assert (tmp_path / "small" / "study.json").read_text() == text
    with pytest.raises(DimeError, match="is a run, no study"):
        plan(tmp_path / "small" / FIRST)
