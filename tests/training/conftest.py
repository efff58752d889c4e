from tests.training.fixtures import brake, straight  # noqa: F401
