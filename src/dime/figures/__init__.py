"""Figures of runs and animations of policies."""
