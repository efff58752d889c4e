"""A sweep that is stopped, killed, or loses a node goes on where it was."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock
import pytest

import dime
from dime.cli.main import main
from dime.errors import DimeError
from tests.training.runs import LOOP, SCHEDULE, assert_same_run, read_lines, status_of
from tests.training.toy import NAME
from tests.training.walk import ID

pytestmark = [
    pytest.mark.promise("R1", "R2"),
    # Starting a cluster forks; its children run other programs at once.
    pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning"),
]

ROOT = Path(__file__).parents[2]
SETTINGS = LOOP | SCHEDULE
HELD_AT = 40  # env step: after the checkpoint at 30, before the one at 45


def study(**changes):
    plain = {
        "name": "walks",
        "environments": [ID],
        "algorithms": [NAME],
        "seeds": [0, 1],
        "settings": SETTINGS,
        "retries": 2,
    }
    return plain | changes


def names(count=2):
    return [
        f"tests.training.walk-Walk-v0_{NAME.replace(':', '-')}_seed-{seed}" for seed in range(count)
    ]


@pytest.fixture(scope="module", autouse=True)
def workers_find_the_environment():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        yield


class TwoNodes:
    """A cluster on this machine. `hold` makes the trials that start from then on wait."""

    def __init__(self, folder, cluster):
        self.folder, self.cluster, self.address = folder, cluster, cluster.address
        self.second = cluster.add_node(num_cpus=1)

    def hold(self, env_step, at):
        (self.folder / "hold").write_text(f"0:{env_step}:{at}")


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory):
    from ray.cluster_utils import Cluster

    folder = tmp_path_factory.mktemp("cluster")
    with pytest.MonkeyPatch.context() as patch:  # which the workers inherit
        patch.setenv("WALK_HOLD", str(folder / "hold"))
        head = {"num_cpus": 1, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            yield TwoNodes(folder, cluster)
        finally:
            cluster.shutdown()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a sweep that nothing happened to, on Ray that it started itself."""
    storage = tmp_path_factory.mktemp("undisturbed")
    result = dime.sweep(study(), storage=storage, progress=False)
    assert result.finished == tuple(names())
    assert not result.failed
    return result.folder


def assert_same_results(folder, undisturbed):
    for name in names():
        assert_same_run(folder / name, undisturbed / name)


def wait_for(condition, what):
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


class KillNode(threading.Thread):
    """Removes the node once trials on both are held behind a checkpoint; then lets them go on."""

    def __init__(self, cluster, node, folder, hold):
        super().__init__()
        self.cluster, self.node, self.folder, self.hold = cluster, node, folder, hold
        self.error = None

    def run(self):
        try:
            wait_for(lambda: len(self.held()) == 2, "two trials at their 40th env step")
            self.cluster.remove_node(self.node, allow_graceful=False)
            wait_for(self.one_is_gone, "the process of the node's trial to end")
            (self.hold / "go").touch()
        except BaseException as error:
            self.error = error

    def held(self):
        return list(self.folder.glob("*/checkpoints/step-000000030/manifest.json"))

    def one_is_gone(self):
        """Whether one of the held trials no longer has its run directory for itself."""
        for manifest in self.held():
            lock = filelock.FileLock(manifest.parents[2] / ".lock")
            with contextlib.suppress(filelock.Timeout), lock.acquire(timeout=0):
                return True
        return False


def start_sweep(tmp_path, hold_at, number):
    """The command in a process of its own, held at an env step of each trial's process."""
    hold = tmp_path / f"hold-{number}"
    hold.mkdir()
    environment = os.environ | {"WALK_HOLD": f"0:{hold_at}:{hold}"}
    # SIGINT may be ignored where the tests run in the background; the command is to heed it.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    process = subprocess.Popen(
        [sys.executable, "-c", f"{heeding}from dime.cli.main import entry; entry()", "sweep"]
        + [str(tmp_path / "walks.py"), "--storage", str(tmp_path)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    return process, hold


@pytest.mark.parametrize(
    "how", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.soak)]
)
def test_a_stopped_sweep_is_finished_by_the_same_command(how, undisturbed, two_nodes, tmp_path):
    """Beside a cluster of others, which it does not join."""
    (tmp_path / "walks.py").write_text(f"STUDY = {study(cpus=1)!r}")
    process, hold = start_sweep(tmp_path, HELD_AT, 0)
    wait_for((hold / "reached").exists, "a trial at the step where it waits")
    os.kill(process.pid, how)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL), out
    assert "Traceback" not in out
    process, hold = start_sweep(tmp_path, 1000, 1)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert "walks: 2 finished, 0 failed" in out
    assert_same_results(tmp_path / "walks", undisturbed)


def test_a_trial_that_fails_is_tried_again_and_reported_while_the_others_go_on(
    two_nodes, tmp_path, capsys
):
    # Its reward is no number at the 20th step of an environment: each attempt saves before it, and
    # the run of 48 steps gets through at the third.
    bad = {"algorithm": NAME, "env_kwargs.nan_at": 20}
    settings = SETTINGS | {"evaluation_modes": []}
    changes = {"seeds": [0], "arms": [bad], "retries": 1, "settings": settings}
    (tmp_path / "walks.py").write_text(f"STUDY = {study(**changes)!r}")
    words = ["sweep", str(tmp_path / "walks.py"), "--storage", str(tmp_path)]
    words += ["--address", two_nodes.address]
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert "walks: 1 finished, 1 failed" in out
    failed = names(1)[0].replace("_seed", "_env_kwargs.nan_at-20_seed")
    assert f"{failed} failed and is restarted" in out
    assert (
        f"error: {failed} failed" in err and "Traceback" in err and "non-finite reward (nan)" in err
    )
    folder = tmp_path / "walks" / failed
    starts = json.loads((folder / "provenance.json").read_text())["starts"]
    assert [start["env_step"] for start in starts] == [0, 19]
    assert status_of(folder)["state"] == "failed"
    assert main(words) == 0
    assert status_of(folder)["state"] == "finished"
    assert not list((tmp_path / "walks" / "failures").iterdir())


def test_a_search_keeps_what_it_tried(two_nodes, tmp_path):
    space = {
        "batch_size": {"low": 4, "high": 12},
        "step_size": {"low": 1e-4, "high": 1e-2, "log": True},
    }
    plan = {"space": space, "num_samples": 2, "grace_env_steps": 16, "mode": "stochastic"}
    there = {"storage": tmp_path, "address": two_nodes.address, "progress": False}
    result = dime.sweep(study(search=plan), **there)
    assert len(result.finished) + len(result.stopped_early) == 2 and not result.failed
    tried = json.loads((tmp_path / "walks" / "search.json").read_text())
    for name, entry in tried.items():
        config = json.loads((tmp_path / "walks" / name / "config.json").read_text())
        assert config["training"]["batch_size"] == entry["values"]["batch_size"]
        assert config["training"]["seeds"] == [0, 1]
        records = read_lines(tmp_path / "walks" / name / "evaluations.jsonl")
        scores = [r["returns"] for r in records if r["mode"] == "stochastic"]
        last = [sum(returns) / len(returns) for returns in scores[-2:]]
        assert entry["score"] == pytest.approx(sum(last) / 2)
    again = dime.sweep(study(search=plan | {"num_samples": 3}, seeds=[0, 1]), **there)
    after = json.loads((tmp_path / "walks" / "search.json").read_text())
    assert len(after) == 3 and {name: after[name] for name in tried} == tried
    assert len(again.finished) + len(again.stopped_early) == 3


@pytest.mark.parametrize(
    "address, said",
    [("127.0.0.1:1", "does not answer"), ("nowhere.invalid:6379", "does not answer")],
)
def test_a_cluster_that_does_not_answer_is_refused_before_anything_starts(tmp_path, address, said):
    began = time.monotonic()
    with pytest.raises(DimeError, match=said):
        dime.sweep(study(), storage=tmp_path, address=address)
    assert time.monotonic() - began < 60
    assert not list(tmp_path.glob("walks/*/config.json"))


def test_a_node_dies_and_all_trials_end_as_if_nothing_had_happened(
    undisturbed, two_nodes, tmp_path
):
    """The last one here: the node is gone afterwards."""
    hold = tmp_path / "hold"
    hold.mkdir()
    two_nodes.hold(HELD_AT, hold)
    watcher = KillNode(two_nodes.cluster, two_nodes.second, tmp_path / "walks", hold)
    watcher.start()
    result = dime.sweep(study(), storage=tmp_path, address=two_nodes.address, progress=False)
    watcher.join()
    assert watcher.error is None
    assert result.finished == tuple(names()) and not result.failed
    assert_same_results(result.folder, undisturbed)
    starts = [
        [
            s["env_step"]
            for s in json.loads((result.folder / n / "provenance.json").read_text())["starts"]
        ]
        for n in names()
    ]
    assert sorted(starts) == [[0], [0, 30]]  # one trial lost its node
