"""A run: replay, loop, evaluation, checkpoints, records. The first layer that touches files."""
