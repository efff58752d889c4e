from tests.training.processes import compiled, training  # noqa: F401
