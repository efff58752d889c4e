from tests.training.fixtures import straight  # noqa: F401
