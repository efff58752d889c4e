from tests.training.processes import training  # noqa: F401
