"""Imports run one way, and importing the mathematics brings nothing else along."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dime

ROOT = Path(dime.__file__).parent
# From left to right; a module imports from its own group or from those before it.
LAYERS = [
    {"errors", "types", "optimizers"},
    {"networks", "diffusion"},
    {"policies", "critics"},
    {"updates"},
    {"algorithms"},
    {"envs", "statistics"},
    {"training"},
    {"deploy", "benchmark"},
    {"figures"},
    {"sweeps"},
    {"report"},
    {"cli", "__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
PURE = set().union(*LAYERS[:5])
REINFORCEMENT_LEARNING = set().union(*LAYERS[1:5])
PURE_MAY_IMPORT = {
    "abc", "jax", "equinox", "optax", "jaxtyping", "dime", "dataclasses", "typing", "collections",
    "difflib", "functools", "importlib", "math", "numpy", "tomllib",
}  # fmt: skip
STATISTICS_MAY_IMPORT = {"numpy", "jaxtyping", "collections", "dataclasses", "typing"}
COMPUTED_BY_JAX = {"jax_env.py"}  # environments for the device
READS_CODE = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}

FILES = sorted(path for path in ROOT.rglob("*.py"))


def name_of(path):
    return str(path.relative_to(ROOT))


def layer_of(path):
    """The first part of the path below the package: "networks", "errors", ..."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path):
    """Full names of what a file imports anywhere in it, also inside functions."""
    package = ["dime", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            if base == ["dime"]:  # from dime import x: x may be a layer
                yield from (f"dime.{alias.name}" for alias in node.names)
            else:
                yield ".".join(base)


def imported_layers(path):
    """The layers of this package that a file imports from."""
    names = [name.split(".") for name in imported(path)]
    return {parts[1] for parts in names if parts[0] == "dime" and len(parts) > 1}


def in_layers(layers):
    return [path for path in FILES if layer_of(path) in layers]


def test_every_file_belongs_to_a_layer():
    unknown = {layer_of(path) for path in FILES} - set(RANK) - {"__init__"}
    assert unknown == set(), f"give {unknown} a place in LAYERS"


@pytest.mark.parametrize("path", in_layers(RANK), ids=name_of)
def test_imports_come_from_the_left(path):
    rank = RANK[layer_of(path)]
    wrong = {name for name in imported_layers(path) if RANK.get(name, -1) > rank}
    assert wrong == set()


@pytest.mark.parametrize("path", in_layers(PURE), ids=name_of)
def test_the_mathematics_imports_only_its_libraries(path):
    assert {name.split(".")[0] for name in imported(path)} <= PURE_MAY_IMPORT
    assert not {name for name in imported(path) if name.startswith("collections")} - {
        "collections.abc"
    }


@pytest.mark.parametrize("path", in_layers({"envs"}), ids=name_of)
def test_environments_know_neither_jax_nor_the_algorithms(path):
    tops = {name.split(".")[0] for name in imported(path)}
    if path.name not in COMPUTED_BY_JAX:
        assert tops.isdisjoint({"jax", "jaxlib", "equinox", "optax", "jaxtyping"})
    assert imported_layers(path).isdisjoint(REINFORCEMENT_LEARNING)


@pytest.mark.parametrize("path", in_layers({"statistics"}), ids=name_of)
def test_statistics_are_numpy_and_know_nothing_of_learning(path):
    assert {name.split(".")[0] for name in imported(path)} <= STATISTICS_MAY_IMPORT | {"dime"}
    assert imported_layers(path) <= {"errors", "statistics"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_runs_code_from_data(path):
    assert {name.split(".")[0] for name in imported(path)}.isdisjoint(READS_CODE)
    calls = [
        node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    ]
    called = {function.id for function in calls if isinstance(function, ast.Name)}
    assert called.isdisjoint({"eval", "exec", "compile", "__import__"})
    # numpy.load(..., allow_pickle=True) is the same by another name.
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant) and node.value.value is False


def modules_after(statement):
    """Top-level names in sys.modules after a statement in a fresh interpreter."""
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return set(finished.stdout.split())


def test_importing_the_algorithm_brings_no_environment_screen_or_file_format():
    loaded = modules_after("import dime.algorithms.dime")
    assert {"jax", "equinox", "optax"} <= loaded
    heavy = {
        "gymnasium", "mujoco", "dm_control", "myosuite", "glfw", "matplotlib", "tyro", "rich",
        "scipy", "imageio", "PIL", "tensorboardX", "wandb", "safetensors", "h5py",
    }  # fmt: skip
    assert loaded.isdisjoint(heavy), loaded & heavy


def test_statistics_are_there_without_jax():
    loaded = modules_after("import dime; dime.statistics.iqm")
    assert "numpy" in loaded
    assert loaded.isdisjoint({"jax", "equinox", "scipy", "pandas", "rliable", "matplotlib"})


def test_environments_are_there_without_jax():
    assert modules_after("import dime.envs").isdisjoint({"jax", "equinox", "mujoco_playground"})


def test_importing_the_package_is_lazy():
    loaded = modules_after("import dime")
    assert loaded.isdisjoint({"jax", "numpy", "equinox", "gymnasium", "mujoco", "matplotlib"})
