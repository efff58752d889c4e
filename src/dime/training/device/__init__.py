"""Environments in the learner's program."""
