"""Policies: an observation and a key give an action and its log density, or a bound on it.

The DDPM and consistency policies of the compared algorithms will stand here too.
"""
