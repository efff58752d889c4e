from tests.training.fixtures import brake, dime_run, straight  # noqa: F401
