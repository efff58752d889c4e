"""Loading never executes code from a file: the package has nothing that could."""

import ast
import re
from pathlib import Path

import pytest

import dime

pytestmark = pytest.mark.promise("R12")

SOURCES = sorted(Path(dime.__file__).parent.rglob("*.py"))
MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "marshal", "shelve", "dill", "joblib"}
MODULES |= {"code", "imp"}
MODULES |= {"torch", "yaml"}  # their own loaders unpickle
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {"numpy.loads", "torch.load", "yaml.load", "pandas.read_pickle"}
IMPORTERS = {"__init__.py", "algorithms/registry.py", "envs/gymnasium_suite.py"}


def offences(text, name="x.py"):
    """What a source does that could execute what a file says, as 'line: what'."""
    found = []
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names):
                imported = [alias.name for alias in names]
            case ast.ImportFrom(module=module, names=names):
                imported = [module or "", *(f"{module}.{alias.name}" for alias in names)]
            case _:
                imported = []
        bad = [one for one in imported if one.partition(".")[0] in MODULES]
        if isinstance(node, ast.Call):
            bad += bad_call(node)
        found += [f"{node.lineno}: {one}" for one in bad]
    return found


def bad_call(call):
    """The call if it is one of those that must not be."""
    name = ast.unparse(call.func)
    last = name.rpartition(".")[2]
    if name in BUILTINS or name.removeprefix("builtins.") in BUILTINS:
        return [name]
    if name in CALLS or last in ("read_pickle", "unpickle"):
        return [name]
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if "allow_pickle" in keywords and ast.unparse(keywords["allow_pickle"]) != "False":
        return [f"{name} with allow_pickle"]
    if None in keywords and last == "load":
        return [f"{name} with arguments that are not seen here"]
    return []


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(SOURCES[0].parent)))
def test_no_source_can_execute_what_a_file_says(file):
    assert offences(file.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "import os, pickle as p",
        "from pickle import loads",
        "def f():\n    import cloudpickle.fast",
        "from marshal import load",
        "import shelve",
        "import dill",
        "from torch import load",
        "eval('1')",
        "exec(text)",
        "builtins.eval(text)",
        "__import__(name)",
        "np.load(file, allow_pickle=True)",
        "np.load(file, allow_pickle=flag)",
        "np.load(file, **options)",
        "torch.load(file)",
        "yaml.load(file)",
        "pd.read_pickle(file)",
    ],
)
def test_the_scan_finds_each_of_these(text):
    assert offences(text)


@pytest.mark.parametrize("text", ["np.load(file)", "json.load(f)", "model.eval()", "x.compile()"])
def test_the_scan_lets_these_pass(text):
    assert offences(text) == []


def test_only_a_study_that_is_a_program_is_run():
    """A study's .py is one, as its user wrote it; nothing else is."""
    found = {
        file.relative_to(SOURCES[0].parent).as_posix()
        for file in SOURCES
        if re.search(
            r"runpy|exec_module|spec_from_file_location|SourceFileLoader", file.read_text()
        )
    }
    assert found == {"sweeps/study.py"}


def test_modules_are_imported_by_name_in_few_places_only():
    """Names that are computed: the package's own, and one's own algorithm and environment.

    Python finds them by name where it finds all modules; a run's folder is no such place.
    """
    found = {
        file.relative_to(SOURCES[0].parent).as_posix()
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module")
        if not isinstance(node.args[0], ast.Constant)
    }
    assert found == IMPORTERS
