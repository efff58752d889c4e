"""Configs: to JSON and back, and what is refused, in words that help."""

import ast
import dataclasses
import importlib
import json
import pkgutil
from pathlib import Path

import numpy as np
import pytest

import dime
from dime.errors import DimeError
from dime.training.config import RunConfig, TrainingConfig, choose, replace_nested
from dime.training.presets import make_config

pytestmark = pytest.mark.promise("R8")

NAN, INF = float("nan"), float("inf")


def as_json(config):
    """The config as it is when it was written to a file and read."""
    return json.loads(json.dumps(config.to_json()))


@pytest.mark.parametrize("preset", ["paper", "laptop"])
@pytest.mark.parametrize("env", ["dm_control/dog-run", "Pendulum-v1", "myoHandReachRandom-v0"])
def test_to_json_and_back(preset, env):
    config = make_config(
        env,
        preset=preset,
        env_kwargs={"use_contact_forces": True, "size": [1, 2.5]},
        seeds=(3, 1),
        evaluation_modes=("best_of_n",),
        wandb_project="a",
        discount=0.9,
    )
    assert RunConfig.from_json(as_json(config)) == config
    assert as_json(RunConfig.from_json(as_json(config))) == as_json(config)


def test_a_file_may_leave_out_what_stays_at_its_default():
    config = RunConfig.from_json({"env": "x", "settings": {"critic": {"hidden_dim": 7}}})
    assert (config.env, config.algorithm, config.training) == ("x", "dime", TrainingConfig())
    assert (config.settings.critic.hidden_dim, config.settings.critic.num_atoms) == (7, 101)


def nested(path, value):
    """`{"a": {"b": value}}` of "a.b"."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


POLICY, CRITIC, TEMPERATURE = "settings.policy", "settings.critic", "settings.temperature"
UNKNOWN = [
    ("envv", "env"),
    ("trainin", "training"),
    ("training.batch_siz", "training.batch_size"),
    ("training.num_envsteps", "training.num_env_steps"),
    ("training.seed", "training.seeds"),
    ("settings.discont", "settings.discount"),
    ("settings.polcy", "settings.policy"),
    ("settings.policy.num_difusion_steps", "settings.policy.num_denoising_steps"),
    ("settings.policy.hiden_dim", "settings.policy.hidden_dim"),
    ("settings.critic.vmin", "settings.critic.v_min"),
    ("settings.critic.n_atoms", "settings.critic.num_atoms"),
    ("settings.temperature.learning_rat", "settings.temperature.learning_rate"),
]


@pytest.mark.parametrize("path, nearest", UNKNOWN, ids=[path for path, _ in UNKNOWN])
def test_an_unknown_option_is_refused_with_the_nearest(path, nearest):
    with pytest.raises(DimeError) as caught:
        RunConfig.from_json(nested(path, 1))
    message = str(caught.value)
    assert f"There is no option '{path}'; nearest: " in message
    assert nearest in message.partition("nearest:")[2].partition(". There are:")[0].split(", ")[0]


# Where, what, and words that the message must have beside the field's name and the value.
WRONG_TYPE = [
    ("env", 3, "str"),
    ("env_kwargs", [1], "table"),
    ("env_is_object", "no", "bool"),
    ("training", 3, "table of options"),
    ("training.batch_size", "256", "int"),
    ("training.batch_size", 256.0, "int"),
    ("training.batch_size", True, "int"),
    ("training.batch_size", None, "int"),
    ("training.num_env_steps", 1e6, "int"),
    ("training.seeds", 0, "list"),
    ("training.seeds", [1.5], "int"),
    ("training.seeds", [False], "int"),
    ("training.tensorboard", 1, "bool"),
    ("training.tensorboard", "yes", "bool"),
    ("training.wandb_project", 5, "str"),
    ("training.evaluation_modes", "stochastic", "list"),
    ("settings", None, "table of options"),
    ("settings.critic", [], "table of options"),
    (f"{CRITIC}.v_min", "low", "float"),
    (f"{CRITIC}.v_min", True, "float"),
    (f"{POLICY}.learning_rate", "3e-4", "float"),
    (f"{POLICY}.learning_rate", False, "float"),
    (f"{POLICY}.hidden_dim", [64, 64], "int"),
    (f"{TEMPERATURE}.learn", 0, "bool"),
]
OUT_OF_RANGE = [
    ("algorithm", "dine", "nearest: dime"),
    ("training.num_env_steps", 0, "at least 1"),
    ("training.num_env_steps", -1, "at least 1"),
    ("training.num_random_steps", -1, "at least 0"),
    ("training.updates_per_env_step", 0, "at least 1"),
    ("training.batch_size", -256, "at least 1"),
    ("training.replay_capacity", 0, "at least 1"),
    ("training.evaluate_every", 0, "at least 1"),
    ("training.num_evaluation_episodes", 0, "at least 1"),
    ("training.checkpoint_every", 0, "at least 1"),
    ("training.log_every", 9, "10 to 500"),
    ("training.log_every", 501, "10 to 500"),
    ("training.seeds", [], "at least one"),
    ("training.seeds", [1, 1], "twice"),
    ("training.seeds", [-1], "0 to 2147483647"),
    ("training.seeds", [2**31], "0 to 2147483647"),
    ("training.evaluation_modes", ["greedy"], "best_of_n, deterministic, stochastic"),
    ("training.evaluation_modes", ["stochastic", "stochastic"], "twice"),
    ("settings.discount", 1, "[0, 1)"),
    ("settings.discount", -0.1, "[0, 1)"),
    ("settings.discount", NAN, "[0, 1)"),
    ("settings.policy_delay", 0, "at least 1"),
    ("settings.num_action_candidates", 0, "at least 1"),
    (f"{POLICY}.num_denoising_steps", 0, "at least 1"),
    (f"{POLICY}.hidden_dim", -5, "at least 1"),
    (f"{POLICY}.prior_std", 0, "above 0"),
    (f"{POLICY}.adam_b1", 1.0, "[0, 1)"),
    (f"{POLICY}.max_gradient", INF, "above 0"),
    (f"{CRITIC}.head", "quantile", "categorical, scalar"),
    (f"{CRITIC}.num_atoms", 1, "at least 2"),
    (f"{CRITIC}.num_critics", 0, "at least 1"),
    (f"{CRITIC}.v_min", INF, "v_min must be below v_max"),
    (f"{CRITIC}.v_max", -INF, "v_min must be below v_max"),
    (f"{CRITIC}.v_max", NAN, "v_min must be below v_max"),
    (f"{CRITIC}.entropy_weight", -1, "at least 0"),
    (f"{TEMPERATURE}.initial", 0, "above 0"),
    (f"{TEMPERATURE}.learning_rate", NAN, "above 0"),
    (f"{TEMPERATURE}.target_running_cost_per_dim", INF, "finite"),
]


@pytest.mark.parametrize(
    "path, value, words",
    WRONG_TYPE + OUT_OF_RANGE,
    ids=[f"{path}={value!r}" for path, value, _ in WRONG_TYPE + OUT_OF_RANGE],
)
def test_a_bad_value_is_refused_with_field_value_and_range(path, value, words):
    with pytest.raises(DimeError) as caught:
        RunConfig.from_json({"env": "x"} | nested(path, value))
    message = str(caught.value)
    field = path.rpartition(".")[2]
    if field in ("v_min", "v_max"):
        field = "support" if "below" in words else field
    items = value if isinstance(value, list) else [value]
    assert field in message
    assert all(str(item) in message for item in items)
    assert words in message


def test_a_config_that_is_no_table_is_refused():
    for content in ([], 3, None, "paper"):
        with pytest.raises(DimeError, match="table"):
            RunConfig.from_json(content)


def test_a_newer_format_is_refused():
    with pytest.raises(DimeError, match="format version 2.*up to 1.*pip install --upgrade"):
        RunConfig.from_json(make_config("x").to_json() | {"format_version": 2})


def test_numbers_without_a_fraction_are_floats_where_floats_are_meant():
    config = replace_nested(make_config("x"), nested(f"{CRITIC}.v_min", -300))
    assert isinstance(config.settings.critic.v_min, float)
    config = replace_nested(make_config("dm_control/dog-run"), nested(f"{CRITIC}.v_min", None))
    assert config.settings.critic.v_min is None


def test_replacing_leaves_the_original_alone():
    config = make_config("dm_control/dog-run")
    changed = replace_nested(config, {"training": {"batch_size": 3}})
    assert (config.training.batch_size, changed.training.batch_size) == (256, 3)
    assert changed.settings == config.settings


def test_what_is_far_from_all_names_has_no_nearest():
    with pytest.raises(DimeError) as caught:
        choose("preset", "zzzzzzz", ["paper", "laptop"])
    assert str(caught.value) == "There is no preset 'zzzzzzz'. There are: laptop, paper."


def test_a_run_shorter_than_its_replay_needs_no_larger_one():
    config = TrainingConfig(num_env_steps=50, replay_capacity=80)
    assert config.effective_capacity == 50
    assert dataclasses.replace(config, num_env_steps=100).effective_capacity == 80


def config_classes():
    """Every dataclass of the package whose name ends in Config."""
    for info in pkgutil.walk_packages(dime.__path__, "dime."):
        for member in vars(importlib.import_module(info.name)).values():
            if dataclasses.is_dataclass(member) and isinstance(member, type):
                if member.__name__.endswith("Config") and member.__module__ == info.name:
                    yield member


def names_read():
    """Attributes that the package reads anywhere but in checks of values (`__post_init__`)."""
    read = set()
    for file in Path(dime.__file__).parent.rglob("*.py"):
        checks = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == "__post_init__":
                checks |= {id(inner) for inner in ast.walk(node)}
            is_read = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
            if is_read and id(node) not in checks:
                read.add(node.attr)
    return read


def test_every_field_of_every_config_is_read():
    classes = list(config_classes())
    assert len(classes) >= 6
    read = names_read()
    fields = {f"{c.__name__}.{f.name}" for c in classes for f in dataclasses.fields(c)}
    assert {field for field in fields if field.rpartition(".")[2] not in read} == set()


def test_every_field_of_every_config_is_documented():
    for config in config_classes():
        tree = ast.parse(Path(importlib.import_module(config.__module__).__file__).read_text())
        (body,) = (n.body for n in ast.walk(tree)
                   if isinstance(n, ast.ClassDef) and n.name == config.__name__)  # fmt: skip
        for node, following in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign) and "Config" not in ast.unparse(node.annotation):
                is_text = isinstance(following, ast.Expr) and isinstance(
                    following.value, ast.Constant
                )
                assert is_text, f"{config.__name__}.{node.target.id} has no docstring"


@pytest.mark.parametrize("value", [np.int64(3), NAN, object()])
def test_arguments_of_the_environment_that_json_cannot_hold_are_refused(value):
    with pytest.raises(DimeError, match="env_kwargs are .*JSON cannot hold"):
        RunConfig(env="x", env_kwargs={"size": value})


def test_updates_beyond_the_counter_are_refused():
    with pytest.raises(DimeError, match="num_env_steps is 2000000000 with 2 updates each"):
        TrainingConfig(num_env_steps=2_000_000_000)
