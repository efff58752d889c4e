"""Configs, generated: whatever is accepted comes back from JSON, whatever is wrong is refused."""

import dataclasses
import json

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from dime.algorithms.registry import ALGORITHMS
from dime.errors import DimeError
from dime.training.config import RunConfig, TrainingConfig
from dime.training.records import parse_json, write_json
from dime.training.run_directory import RunDirectory

pytestmark = pytest.mark.promise("R8")

COUNTS = {
    "num_random_steps": st.integers(0, 2**31 - 1),
    "batch_size": st.integers(1, 2**31 - 1),
    "replay_capacity": st.integers(1, 2**31 - 1),
    "evaluate_every": st.integers(1, 2**31 - 1),
    "num_evaluation_episodes": st.integers(1, 2**31 - 1),
    "checkpoint_every": st.integers(1, 2**31 - 1),
    "log_every": st.integers(10, 500),
    "num_env_steps": st.integers(100, 2**20),
    "updates_per_env_step": st.integers(1, 100),
    "env_steps_per_update": st.integers(1, 100),
    "bootstrap_at_time_limits": st.booleans(),
    "tensorboard": st.booleans(),
    "wandb_project": st.none() | st.text(),
    "seeds": st.lists(st.integers(0, 2**31 - 1), min_size=1, unique=True).map(tuple),
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
MANY = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def arguments_of_configs(draw):
    """Made into a config by the tests: checks of types draw random numbers, strategies may not."""
    chosen = ALGORITHMS[draw(st.sampled_from(sorted(ALGORITHMS)))]
    modes = draw(st.lists(st.sampled_from(sorted(chosen.modes)), min_size=1, unique=True))
    options = {name: draw(values) for name, values in COUNTS.items()}
    kwargs = draw(st.dictionaries(st.text(max_size=5), JSON.filter(is_finite), max_size=3))
    return chosen, draw(st.text()), kwargs, options | {"evaluation_modes": tuple(modes)}


def config_of(arguments):
    chosen, env, kwargs, options = arguments
    training, own = TrainingConfig(**options), chosen.config()
    try:
        return RunConfig(env, kwargs, algorithm=chosen.name, training=training, settings=own)
    except DimeError:  # not with these options of the loop
        reject()


def is_finite(value):
    return "Infinity" not in json.dumps(value)


@MANY
@given(arguments_of_configs())
def test_whatever_is_accepted_comes_back(arguments):
    config = config_of(arguments)
    written = parse_json(json.dumps(config.to_json()).encode())
    assert RunConfig.from_json(written) == config


@MANY
@given(arguments_of_configs())
def test_also_from_a_runs_own_file(tmp_path_factory, arguments):
    config = config_of(arguments)
    directory = RunDirectory(tmp_path_factory.mktemp("run"))
    directory.write_config(config.to_json())
    assert RunConfig.from_json(directory.config()) == config


def option_names(config):
    """The fields of a config by their paths, those of nested configs too."""
    names = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        nested = option_names(value) if dataclasses.is_dataclass(value) else []
        names += [f"{field.name}.{name}" for name in nested] or [field.name]
    return names


PATHS = option_names(RunConfig("x", settings=ALGORITHMS["dime"].config()))


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=10)
@given(st.data())
def test_a_name_with_a_letter_wrong_is_refused_with_the_nearest(path, data):
    parent, dot, name = path.rpartition(".")
    place = data.draw(st.integers(0, len(name) - 1))
    wrong = f"{parent}{dot}{name[:place]}{name[place + 1 :]}"
    if wrong in PATHS or wrong in ("", parent + dot):
        return
    with pytest.raises(DimeError, match="There is no option|nearest") as caught:
        RunConfig.from_json({"env": "x"} | nested(wrong, 1))
    if len(name) > 4:
        assert path in str(caught.value).partition("nearest: ")[2].partition(". There are")[0]


def nested(path, value):
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


@settings(max_examples=200)
@given(st.sampled_from(PATHS), JSON)
def test_any_value_anywhere_is_taken_or_refused(path, value):
    try:
        config = RunConfig.from_json({"env": "x"} | nested(path, value))
    except DimeError:
        return
    for name in path.split("."):
        config = getattr(config, name)
    taken = list(config) if isinstance(config, tuple) else config
    assert dataclasses.is_dataclass(taken) or taken == value


@settings(max_examples=200)
@given(JSON | st.dictionaries(st.sampled_from(["env", "training", "settings", "algorithm"]), JSON))
def test_any_document_is_taken_or_refused(document):
    try:
        RunConfig.from_json(document)
    except DimeError:
        pass


def test_one_byte_of_config_json_is_never_another_silently(tmp_path):
    """Every byte in turn, two bits of it; what is taken is what was written."""
    directory = RunDirectory(tmp_path)
    expected = RunConfig("x", {"size": 3}, settings=ALGORITHMS["dime"].config())
    directory.write_config(expected.to_json())
    content = directory.config_file.read_bytes()
    refused = 0
    for place in range(len(content)):
        for bit in (1, 4):
            changed = bytearray(content)
            changed[place] ^= bit
            directory.config_file.write_bytes(changed)
            try:
                taken = RunConfig.from_json(directory.config())
            except DimeError:
                refused += 1
                continue
            assert taken == expected, changed[place - 20 : place + 20]
    assert refused > 1.9 * len(content)


@pytest.mark.parametrize("length", [0, 1, 100, -1, -2])
def test_a_truncated_config_json_is_refused_or_whole(tmp_path, length):
    directory = RunDirectory(tmp_path)
    directory.write_config(RunConfig("x", settings=ALGORITHMS["dime"].config()).to_json())
    expected, content = directory.config(), directory.config_file.read_bytes()
    directory.config_file.write_bytes(content[:length])
    if length == -1:  # the newline
        assert directory.config() == expected
    else:
        with pytest.raises(DimeError, match="damaged"):
            directory.config()


def test_one_from_before_there_was_a_sum_is_taken(tmp_path):
    directory = RunDirectory(tmp_path)
    config = RunConfig("x", settings=ALGORITHMS["dime"].config()).to_json()
    write_json(directory.config_file, config)
    assert "sha256" not in directory.config_file.read_text()
    assert directory.config()["env"] == "x"


def test_one_that_was_changed_by_hand_says_what_to_do(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.write_config(RunConfig("x", settings=ALGORITHMS["dime"].config()).to_json())
    content = json.loads(directory.config_file.read_text()) | {"env": "y"}
    write_json(directory.config_file, content)
    with pytest.raises(DimeError, match='damaged.*delete its entry "sha256"'):
        directory.config()
    assert RunConfig.from_json(content).env == "y"  # as `dime train --config` takes it
    del content["sha256"]
    write_json(directory.config_file, content)
    assert directory.config()["env"] == "y"


BAD = ["", "[" * 100_000, "null", "[]", '{"format_version": NaN}', '{"format_version": "1"}',
       '{"format_version": 1, "format_version": 1}', '{"format_version": ' + "9" * 5000 + "}",
       '{"format_version": 1, "sha256": 3}', '{"format_version": -1, "sha256": null}']  # fmt: skip


@pytest.mark.parametrize("content", BAD, ids=lambda text: text[:40])
def test_a_config_json_that_is_none(tmp_path, content):
    directory = RunDirectory(tmp_path)
    directory.config_file.write_text(content)
    directory.status_file.write_text(content)
    with pytest.raises(DimeError):
        directory.config()
    assert isinstance(directory.status(), dict)
