"""Golden numbers of the authors' released code as fixtures."""

import numpy as np
import pytest

from tests.golden.arrays import FILES, FOLDER, Golden


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def golden(request):
    with np.load(request.param) as file:
        return Golden(dict(file))


@pytest.fixture
def batch_renorm_arrays():
    path = FOLDER / "batchrenorm.npz"
    if not path.exists():
        return None
    with np.load(path) as file:
        return dict(file)
