from tests.training.fixtures import dime_run, straight  # noqa: F401
