"""Each test of a kind runs once for every file of that kind, with the file's stem as its id."""

import jax
import pytest

from tests.golden_baselines.golden import FILES, Golden, kind_of


def files_of(module_name):
    kind = module_name.rpartition(".")[-1].removeprefix("test_")
    return [path for path in FILES if kind_of(path.stem) == kind]


def pytest_ignore_collect(collection_path):
    """A kind of which there is no file has nothing to test."""
    name = collection_path.stem
    if name.startswith("test_") and name != "test_every_file" and not files_of(name):
        return True
    return None


def pytest_generate_tests(metafunc):
    if "golden" in metafunc.fixturenames:
        files = files_of(metafunc.module.__name__)
        ids = [path.stem for path in files]
        metafunc.parametrize("golden", files, ids=ids, indirect=True, scope="module")


@pytest.fixture(scope="module")
def golden(request):
    return Golden(request.param)


@pytest.fixture(autouse=True)
def note_the_test(request):
    if "golden" in request.fixturenames:
        request.getfixturevalue("golden").tests.add(request.node.originalname)


@pytest.fixture(scope="module")
def double_precision():
    with jax.enable_x64(True):
        yield
