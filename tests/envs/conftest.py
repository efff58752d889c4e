"""MuJoCo reads MUJOCO_GL when it is imported, which some of these tests do at their top."""

from dime.envs import choose_renderer

choose_renderer()
