"""Which OpenGL MuJoCo renders with; decided before anything imports `mujoco`.

MuJoCo and dm_control read `MUJOCO_GL` once, when they are imported. Unset, they ask for a window
and fail where there is no screen; set to a library that is missing or has no driver, dm_control
does not even import.
"""

import ctypes
import os
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any

import numpy as np

RENDER_PACKAGES = (
    "MuJoCo renders without a screen through EGL or OSMesa; on Debian and Ubuntu: "
    "apt-get install libegl1 (or libosmesa6). MUJOCO_GL=egl|osmesa|glfw|disable chooses; it is "
    "read when mujoco is first imported."
)

_TEST_SCENE = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 64, 64)
renderer.update_scene(data)
assert renderer.render().any(), "the image is black"
renderer.close()
"""


def choose_renderer() -> str | None:
    """Sets `MUJOCO_GL` unless the user has: egl, else osmesa, else disable.

    Call it before the first import of mujoco or dm_control. Returns the value in force; None if
    MuJoCo is left to choose (not Linux).
    """
    if not os.environ.get("MUJOCO_GL") and sys.platform == "linux":
        if _egl_opens_a_display():
            os.environ["MUJOCO_GL"] = "egl"
        elif _load("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so") is not None:
            os.environ["MUJOCO_GL"] = "osmesa"
        else:
            os.environ["MUJOCO_GL"] = "disable"
    return os.environ.get("MUJOCO_GL")


def renderer_status(timeout_s: float = 60.0) -> tuple[str | None, str]:
    """The name of the renderer that draws a small scene, or None; and one line to show."""
    name = choose_renderer() or "MuJoCo's default"
    command = [sys.executable, "-c", _TEST_SCENE]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return None, f"{name}: no picture after {timeout_s:.0f} s. {RENDER_PACKAGES}"
    if result.returncode == 0:
        return name, f"{name}: a test scene was rendered."
    reason = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
    return None, f"{name}: a test scene was not rendered ({reason}). {RENDER_PACKAGES}"


class ModelCamera:
    """A camera of a MuJoCo model; `default`, or else the free camera, if it is not named."""

    def __init__(
        self, camera: str | None, height: int = 480, width: int = 480, default: str | None = None
    ):
        self._name, self._default, self._size = camera, default, (height, width)
        self._renderer: Any = None

    def image(self, model: Any, data: Any) -> np.ndarray:
        """What it sees, uint8 (height, width, 3)."""
        name = self._name
        if name is None and self._default in [model.camera(i).name for i in range(model.ncam)]:
            name = self._default
        if self._renderer is None:
            self._renderer = import_module("mujoco").Renderer(model, *self._size)
        self._renderer.update_scene(data, camera=-1 if name is None else name)
        return self._renderer.render()

    def close(self) -> None:
        """Frees the OpenGL context; the next image makes another."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def _load(*names: str) -> ctypes.CDLL | None:
    for name in names:
        with suppress(OSError):
            return ctypes.CDLL(name)
    return None


def _egl_opens_a_display() -> bool:
    """Whether EGL has a driver for some device here; the library may be installed without one."""
    egl = _load("libEGL.so.1", "libEGL.so")
    if egl is None:
        return False
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    egl.eglGetProcAddress.restype = pointer
    find_devices = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    find_display = egl.eglGetProcAddress(b"eglGetPlatformDisplayEXT")
    if not find_devices or not find_display:
        return False
    query = ctypes.CFUNCTYPE(ctypes.c_uint, integer, pointer, pointer)(find_devices)
    display_of = ctypes.CFUNCTYPE(pointer, ctypes.c_uint, pointer, pointer)(find_display)
    devices, count = (pointer * 16)(), integer(0)
    query(len(devices), devices, ctypes.byref(count))
    # 0x313F is EGL_PLATFORM_DEVICE_EXT.
    displays = (display_of(0x313F, devices[i], None) for i in range(count.value))
    return any(d and egl.eglInitialize(pointer(d), None, None) for d in displays)
