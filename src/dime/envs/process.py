"""An environment in a process of its own: one that hangs or dies is an exception here.

The process is spawned, never forked (JAX has threads), and ends with the one that made it. Nothing
but the environment's answers crosses the pipe.
"""

import atexit
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import traceback
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import gymnasium

from dime.envs.environment import SUCCESS_KEYS, max_episode_steps, name_of
from dime.errors import DimeError

_CLOSE_WITHIN_S = 5.0
_NOT_FOR_US = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Signals that a terminal or a scheduler sends to the whole group; the training process saves and
then ends this one."""


class EnvironmentProcessError(Exception):
    """The environment's process did not answer in time, or has ended."""


class RemoteError(Exception):
    """The environment raised in its process; the cause holds the traceback from there."""


class _RemoteTraceback(Exception):
    def __init__(self, text: str):
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


class ProcessEnv(gymnasium.Env):
    """A Gymnasium environment whose steps are taken in a process of its own.

    Attributes:
        name: of the environment there.
        max_episode_steps: after how many steps it truncates an episode; None if not known.
    """

    def __init__(self, make: Callable[[], gymnasium.Env], timeout_s: float):
        """Starts the process and waits until its environment is made.

        Args:
            make: makes the environment; must be known by name to another process.
            timeout_s: how long making, a reset or a step may take.

        Raises:
            DimeError: `make` cannot be handed to another process.
            EnvironmentProcessError: it hung or died.
            RemoteError: `make` raised there.
        """
        context = multiprocessing.get_context("spawn")
        self._timeout_s = timeout_s
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make), daemon=True)
        try:
            self._process.start()
        except Exception as error:  # what cannot be pickled says so in several ways
            self._connection.close()
            raise DimeError(
                f"{make} cannot be handed to another process ({error}). With env_process the "
                "environment must be an id, or a function or class of a module."
            ) from error
        finally:
            theirs.close()
        # Before the exit handler of multiprocessing, which would wait for it.
        atexit.register(_end_if_alive, weakref.ref(self))
        try:
            facts = self._answer("being made")
        except EnvironmentProcessError as error:
            raise EnvironmentProcessError(
                f"{error} A script that trains with env_process must do so below "
                '`if __name__ == "__main__":`, because the new process imports it.'
            ) from error
        self.name, self.max_episode_steps = facts["name"], facts["max_episode_steps"]
        self.observation_space, self.action_space = facts["observation"], facts["action"]
        self.metadata = facts["metadata"]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """As the environment's own; of `info` nothing is handed on."""
        self._send("reset", {"seed": seed, "options": options})
        return self._answer("its reset")

    def step(self, action: Any) -> Any:
        """As the environment's own; of `info` only a success is handed on."""
        self._send("step", {"action": action})
        return self._answer("its step")

    def close(self) -> None:
        """Closes the environment and ends its process."""
        if not self._process.is_alive():
            self._end()
            return
        with contextlib.suppress(OSError, EnvironmentProcessError):
            self._send("close", {})
            if self._connection.poll(_CLOSE_WITHIN_S):
                self._connection.recv()
        self._end()

    def _send(self, method: str, arguments: dict[str, Any]) -> None:
        try:
            self._connection.send((method, arguments))
        except OSError as error:
            raise self._died() from error

    def _answer(self, what: str) -> Any:
        try:
            if not self._connection.poll(self._timeout_s):
                self._end()
                raise EnvironmentProcessError(
                    f"{what} took longer than {self._timeout_s:g} s (env_timeout_s); the process "
                    "was ended."
                )
            kind, content = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        if kind == "refused":
            raise DimeError(content)
        if kind == "raised":
            text, remote = content
            raise RemoteError(text) from _RemoteTraceback(remote)
        return content

    def _died(self) -> EnvironmentProcessError:
        self._end()
        return EnvironmentProcessError(
            f"the environment's process ended with exit code {self._process.exitcode}."
        )

    def _end(self) -> None:
        if self._process.is_alive():
            self._process.join(0.1)  # one that is just ending keeps its own exit code
            self._process.kill()
        self._process.join()
        self._connection.close()


def _end_if_alive(reference: "weakref.ref[ProcessEnv]") -> None:
    env = reference()
    if env is not None:
        env._end()


def _serve(connection: Connection, make: Callable[[], gymnasium.Env]) -> None:
    """What the process does: makes the environment, then answers until the pipe ends."""
    for number in _NOT_FOR_US:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    env: gymnasium.Env | None = None

    def made() -> dict[str, Any]:
        nonlocal env
        env = make()
        return {
            "name": name_of(env),
            "max_episode_steps": max_episode_steps(env),
            "observation": env.observation_space,
            "action": env.action_space,
            "metadata": {"render_fps": env.metadata.get("render_fps")},
        }

    _reply(connection, made)
    with contextlib.suppress(EOFError, OSError):
        while env is not None:
            method, arguments = connection.recv()
            answer = getattr(env, method)
            _reply(connection, lambda a=answer, k=arguments, m=method: _brief(m, a(**k)))
            if method == "close":
                break


def _brief(method: str, answer: Any) -> Any:
    """The answer without what of `info` nobody reads, which may not fit through a pipe."""
    expected = {"reset": 2, "step": 5}.get(method)
    if not (isinstance(answer, tuple) and len(answer) == expected):
        return answer
    info = answer[-1] if isinstance(answer[-1], dict) else {}
    return (*answer[:-1], {key: info[key] for key in SUCCESS_KEYS if key in info})


def _reply(connection: Connection, do: Callable[[], Any]) -> None:
    try:
        connection.send(("answer", do()))
    except DimeError as error:
        connection.send(("refused", str(error)))
    except Exception as error:  # whatever a user's environment raises
        text = f"{type(error).__name__}: {error}"
        connection.send(("raised", (text, traceback.format_exc())))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
