from tests.training.fixtures import brake, poison, straight  # noqa: F401
from tests.training.processes import training  # noqa: F401
