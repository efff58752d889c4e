"""What is fuzzed: for each kind of file, the readers that meet it, on one input at a time.

A target takes bytes and raises nothing but what it found wrong. `DimeError` is the right answer to
damage; what a reader lets pass must be whole.
"""

import copy
import json
from pathlib import Path

from dime.algorithms import registry
from dime.envs.spaces import Spaces
from dime.errors import DimeError
from dime.training.checkpoint.reader import read_rows
from dime.training.checkpoint.writer import CheckpointFolder
from dime.training.config import RunConfig
from dime.training.records import cut_records, read_records
from dime.training.run_directory import RunDirectory
from tests.training.checkpoints import SPACES, plant, save, sign_manifest

SEGMENT = "000000005-000000010.safetensors"
ODD_VALUES = (
    *(None, True, False, 0, 1, -1, 7, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, float("inf")),
    *("", "x", "0", "../x", "/etc/passwd", "\ud800", "a" * 300, [], [0], ["x"], [[]], [1, 2]),
    *({}, {"": 0}, {"x": {}}, {"0": {"a": 1}}, "metrics.jsonl", SEGMENT),
)


def edited(document: object, data: bytes) -> object:
    """A copy of a JSON document with some entries replaced, removed or added, as `data` says."""
    root = [json.loads(json.dumps(document))]
    numbers = iter(data)
    for _ in range(1 + next(numbers, 0) % 3):
        place = root
        for _ in range(next(numbers, 0) % 8):
            keys = sorted(place) if isinstance(place, dict) else range(len(place))
            inner = [key for key in keys if isinstance(place[key], dict | list) and place[key]]
            if not inner:
                break
            place = place[inner[next(numbers, 0) % len(inner)]]
        keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        key = keys[next(numbers, 0) % len(keys)] if keys else None
        value = copy.deepcopy(ODD_VALUES[next(numbers, 0) % len(ODD_VALUES)])
        how = next(numbers, 0) % 4
        if how == 0 and key is not None and place is not root:
            del place[key]
        elif how == 1 and isinstance(place, dict):
            place[str(value)[:20]] = value
        elif key is not None:
            place[key] = value
    return root[0]


class Targets:
    """The targets, in a folder that they may write in."""

    def __init__(self, folder: Path):
        self.run = RunDirectory(folder)
        self.run.checkpoints.folder.mkdir(parents=True)
        self.folder = CheckpointFolder(self.run.checkpoints.folder)
        self.newest = save(self.folder, 10)
        self.config = RunConfig(
            "dime/MultiGoal-v0", settings=registry.find_algorithm("dime").config()
        )
        own = [*self.newest.iterdir(), self.folder.replay_folder / SEGMENT]
        self.whole = {file.name: file.read_bytes() for file in own}
        registry.import_module = _no_import  # what a name in a file imports is not in question here

    def names(self) -> list[str]:
        """Every target."""
        return [name.removeprefix("fuzz_") for name in dir(self) if name.startswith("fuzz_")]

    def seeds(self, name: str) -> list[bytes]:
        """Whole inputs of a target, to begin with."""
        line = b'{"env_step": 1, "seed": 0, "returns": [1.5]}\n'
        known = {
            "state": [self.whole["state.safetensors"]],
            "episodes": [self.whole["episodes.safetensors"]],
            "segment": [self.whole[SEGMENT]],
            "run_bytes": [self.whole["run.json"]],
            "manifest_bytes": [self.whole["manifest.json"]],
            "records": [line, line * 3, line + line[:9]],
            "json_files": [json.dumps(self.config.to_json()).encode(), b'{"starts": []}'],
            "spaces_bytes": [json.dumps(SPACES).encode()],
        }
        return known.get(name, [bytes(16), bytes(range(40))])

    def _load(self) -> None:
        """Loads the checkpoint; one that is taken for whole must be usable."""
        try:
            loaded = self.folder.load(self.newest)
        except DimeError:
            return
        for file, _ in loaded.replay_files:
            read_rows(file, loaded.run.seeds)
        for seed in loaded.run.seeds:
            loaded.episodes[f"{seed}/next_action"]

    def _plant(self, name: str, content: bytes) -> None:
        """Puts the content into a checkpoint that is whole but for what this target has changed."""
        (self.newest / "manifest.json").write_bytes(self.whole["manifest.json"])
        plant(self.folder, self.newest, name, content)
        self._load()

    def fuzz_state(self, data: bytes) -> None:
        """state.safetensors, with a manifest that agrees."""
        self._plant("state.safetensors", data)

    def fuzz_episodes(self, data: bytes) -> None:
        """episodes.safetensors, with a manifest that agrees."""
        self._plant("episodes.safetensors", data)

    def fuzz_segment(self, data: bytes) -> None:
        """A replay segment, with a manifest that agrees."""
        self._plant(SEGMENT, data)

    def fuzz_run_bytes(self, data: bytes) -> None:
        """run.json of any bytes, with a manifest that agrees."""
        self._plant("run.json", data)

    def fuzz_run(self, data: bytes) -> None:
        """run.json of the right form with odd entries."""
        content = edited(json.loads(self.whole["run.json"]), data)
        self._plant("run.json", json.dumps(content).encode())

    def fuzz_manifest_bytes(self, data: bytes) -> None:
        """manifest.json of any bytes."""
        (self.newest / "manifest.json").write_bytes(data)
        self._load()

    def fuzz_manifest(self, data: bytes) -> None:
        """manifest.json of the right form with odd entries and a right SHA-256."""
        (self.newest / "manifest.json").write_bytes(self.whole["manifest.json"])
        sign_manifest(self.newest, lambda body: edited(body, data))
        self._load()

    def fuzz_records(self, data: bytes) -> None:
        """Files of records, read and cut."""
        file, discarded = self.run.metrics_file, self.run.discarded_file
        file.write_bytes(data)
        discarded.unlink(missing_ok=True)
        try:
            assert all(isinstance(record, dict) for record in read_records(file))
        except DimeError:
            pass
        size = len(data) // 2
        cut_records(file, size, discarded)
        moved = discarded.read_bytes() if discarded.exists() else b""
        assert file.read_bytes() + moved.removesuffix(b"\n") == data.removesuffix(b"\n")

    def fuzz_json_files(self, data: bytes) -> None:
        """config.json and status.json of any bytes."""
        for file in (self.run.config_file, self.run.status_file):
            file.write_bytes(data)
        self._read_config()
        assert isinstance(self.run.status(), dict)

    def fuzz_config(self, data: bytes) -> None:
        """config.json of the right form with odd entries."""
        content = edited(self.config.to_json(), data)
        self.run.config_file.write_text(json.dumps(content))
        self._read_config()

    def _read_config(self) -> None:
        try:
            config = RunConfig.from_json(self.run.config())
        except DimeError:
            return
        written = json.loads(json.dumps(config.to_json()))
        assert RunConfig.from_json(written) == config

    def fuzz_spaces(self, data: bytes) -> None:
        """A description of spaces with odd entries."""
        self._read_spaces(edited(SPACES, data))

    def fuzz_spaces_bytes(self, data: bytes) -> None:
        """A description of spaces of any JSON."""
        try:
            content = json.loads(data)
        except (ValueError, RecursionError):
            return
        self._read_spaces(content)

    def _read_spaces(self, content: object) -> None:
        try:
            spaces = Spaces.from_json(content)
        except DimeError:
            return
        assert Spaces.from_json(json.loads(json.dumps(spaces.to_json()))) == spaces
        assert spaces.obs_dim > 0 and spaces.action_dim > 0


def _no_import(name: str) -> None:
    raise ImportError(name)
