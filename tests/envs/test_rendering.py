import os
import subprocess
import sys

import numpy as np
import pytest

from dime.envs import choose_renderer, make, renderer_status, rendering

NAME, MESSAGE = renderer_status()
needs_renderer = pytest.mark.skipif(NAME is None, reason=MESSAGE)
IDS = ["dm_control/cartpole-swingup", "HalfCheetah-v5", "myoHandKeyTurnRandom-v0"]


def python(code, **variables):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | variables,
    )


@needs_renderer
@pytest.mark.parametrize("id", IDS)
def test_a_picture_is_not_black_and_shows_what_happens(id):
    environment = make(id, render=True)
    environment.reset(seed=0)
    before = environment.render()
    for _ in range(10):
        environment.step(np.ones(environment.action_dim))
    after = environment.render()
    environment.close()
    assert before.dtype == np.uint8 and before.shape == (480, 480, 3)
    assert before.mean() > 5 and before.std() > 5
    assert not np.array_equal(before, after)


@needs_renderer
def test_the_size_can_be_chosen():
    environment = make("dm_control/cartpole-swingup", {"height": 64, "width": 96}, render=True)
    environment.reset(seed=0)
    assert environment.render().shape == (64, 96, 3)


RENDER_AND_EXIT = """
from dime.envs import make
environment = make({id!r}, render=True)
environment.reset(seed=0)
print(environment.render().shape)
"""


@needs_renderer
@pytest.mark.parametrize("id", IDS)
def test_a_process_that_rendered_ends_quietly(id):
    result = python(RENDER_AND_EXIT.format(id=id))
    assert result.stdout == "(480, 480, 3)\n"
    assert result.returncode == 0
    assert "Error" not in result.stderr and "Exception" not in result.stderr


@pytest.mark.parametrize("id", IDS)
def test_without_a_renderer_all_works_but_pictures_and_the_packages_are_named(id):
    code = RENDER_AND_EXIT.format(id=id) + "environment.step([0.0] * environment.action_dim)"
    result = python(code.replace("print(environment.render().shape)", ""), MUJOCO_GL="disable")
    assert result.returncode == 0, result.stderr
    result = python(RENDER_AND_EXIT.format(id=id), MUJOCO_GL="disable")
    assert result.returncode != 0
    (line,) = [line for line in result.stderr.splitlines() if "DimeError:" in line]
    assert "MUJOCO_GL" in line and "libegl1" in line and "libosmesa6" in line


@pytest.mark.parametrize(
    ("egl", "osmesa", "chosen"),
    [
        (True, True, "egl"),
        (True, False, "egl"),
        (False, True, "osmesa"),
        (False, False, "disable"),
    ],
)
def test_egl_then_osmesa_then_none(monkeypatch, egl, osmesa, chosen):
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(rendering, "_egl_opens_a_display", lambda: egl)
    monkeypatch.setattr(rendering, "_load", lambda *names: object() if osmesa else None)
    assert choose_renderer() == chosen
    assert os.environ["MUJOCO_GL"] == chosen


def test_the_users_choice_stands(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    assert choose_renderer() == "glfw"
    assert os.environ["MUJOCO_GL"] == "glfw"


def test_other_systems_are_left_to_mujoco(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert choose_renderer() is None


def test_a_missing_library_is_no_display(monkeypatch):
    monkeypatch.setattr(rendering, "_load", lambda *names: None)
    assert not rendering._egl_opens_a_display()


def test_the_status_says_what_is_wrong(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "disable")
    name, message = renderer_status()
    assert name is None
    assert message.startswith("disable: a test scene was not rendered") and "libegl1" in message
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    assert "nonsense" in renderer_status()[1]


def test_a_hanging_renderer_is_given_up(monkeypatch):
    monkeypatch.setattr(rendering, "_TEST_SCENE", "import time; time.sleep(60)")
    name, message = renderer_status(timeout_s=0.2)
    assert name is None and "no picture after" in message


@needs_renderer
def test_the_status_says_what_works():
    assert NAME in ("egl", "osmesa", "glfw") and "was rendered" in MESSAGE
