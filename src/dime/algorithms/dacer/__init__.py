"""DACER."""
