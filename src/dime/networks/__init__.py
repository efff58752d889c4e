"""Layers; they know nothing of reinforcement learning.

A module's leaves are exactly its trainable parameters: plain `jax.jit`, `grad` and optax work on
it. Constants are rebuilt from static fields, running statistics are passed in and returned.
"""
