"""Environments on the host, learners on the device."""
