"""A sweep that is stopped, killed, or loses a node goes on where it was."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

import dime
from tests.training.runs import OPTIONS, assert_same_run
from tests.training.walk import ID

ROOT = Path(__file__).parents[2]
SETTINGS = {name: value for name, value in OPTIONS.items() if name != "seeds"}
HELD_AT = 40  # env step: after the checkpoint at 30, before the one at 45


def study(**changes):
    plain = {
        "name": "walks",
        "environments": [ID],
        "algorithms": ["dime"],
        "seeds": [0, 1, 2],
        "settings": SETTINGS,
        "retries": 2,
    }
    return plain | changes


def names(count=3):
    return [f"tests.training.walk-Walk-v0_dime_seed-{seed}" for seed in range(count)]


@pytest.fixture(scope="module", autouse=True)
def workers_find_the_environment():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a sweep that nothing happened to."""
    storage = tmp_path_factory.mktemp("undisturbed")
    result = dime.sweep(study(), storage=storage, progress=False)
    assert result.finished == tuple(names())
    assert not result.failed and not result.unfinished
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
            (self.hold / "go").touch()
        except BaseException as error:
            self.error = error

    def held(self):
        return list(self.folder.glob("*/checkpoints/step-000000030/manifest.json"))


def test_a_node_dies_and_all_trials_end_as_if_nothing_had_happened(
    undisturbed, tmp_path, monkeypatch
):
    from ray.cluster_utils import Cluster

    hold = tmp_path / "hold"
    hold.mkdir()
    monkeypatch.setenv("WALK_HOLD", f"0:{HELD_AT}:{hold}")
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False},
    )
    node = cluster.add_node(num_cpus=1)
    try:
        watcher = KillNode(cluster, node, tmp_path / "walks", hold)
        watcher.start()
        result = dime.sweep(study(), storage=tmp_path, address=cluster.address, progress=False)
        watcher.join()
    finally:
        cluster.shutdown()
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
    assert sorted(starts) == [[0], [0], [0, 30]]  # one trial lost its node and 10 env steps
