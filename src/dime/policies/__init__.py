"""Policies: an observation and a key give an action, where there is one with its log density."""
