"""An environment in a process of its own: one that hangs or dies is an exception here.

The process is spawned, never forked (JAX has threads), and ends with the one that made it. Nothing
but the environment's answers crosses the pipe.
"""

import contextlib
import ctypes
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import gymnasium

from dime.envs.environment import SUCCESS_KEYS, RemoteEnv, max_episode_steps, name_of
from dime.errors import DimeError, describe

_END_WITHIN_S = 2.0
_ENDS_BY_ITSELF_WITHIN_S = 1.0
_NOT_FOR_US = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""Signals that a terminal or a scheduler sends to the whole group; the training process saves and
then ends this one."""
_PR_SET_PDEATHSIG = 1
_BEING_MADE = "being made"
_ADVICE = (
    ' It may have said why above. A script file trains below `if __name__ == "__main__":`, because '
    "the new process imports it; what has no file (python -, a notebook's cells) cannot."
)


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


class ProcessEnv(RemoteEnv):
    """A Gymnasium environment whose steps are taken in a process of its own.

    Attributes:
        name: of the environment there.
        max_episode_steps: after how many steps it truncates an episode; None if not known.
    """

    def __init__(self, make: Callable[[], gymnasium.Env], timeout_s: float):
        """Starts the process and waits until its environment is made.

        Args:
            make: makes the environment; must be known by name to another process.
            timeout_s: how long making, a reset or a step may take, counted from where its answer
                is awaited.

        Raises:
            DimeError: `make` cannot be handed to another process.
            EnvironmentProcessError: it hung or died.
            RemoteError: `make` raised there.
        """
        self._timeout_s = timeout_s
        self._step_is_begun = False
        self._connection, self._process = _start(make)
        # At the latest when this object goes, or before multiprocessing waits for its processes.
        self._end = multiprocessing.util.Finalize(
            self, _end, (self._process, self._connection), exitpriority=0
        )
        try:
            facts = self._answer(_BEING_MADE)
        except BaseException:
            self._end()
            raise
        self.name, self.max_episode_steps = facts["name"], facts["max_episode_steps"]
        self.observation_space, self.action_space = facts["observation"], facts["action"]
        self.metadata = facts["metadata"]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """As the environment's own; of `info` nothing is handed on."""
        self._drop_begun_step()
        self._send("reset", seed=seed, **({} if options is None else {"options": options}))
        return self._answer("its reset")

    def start_step(self, action: Any) -> None:
        """Sends the action; a process that is gone is an error of `step`."""
        self._step_is_begun = True
        with contextlib.suppress(EnvironmentProcessError):
            self._send("step", action)

    def step(self, action: Any) -> Any:
        """As the environment's own; of `info` only a success is handed on."""
        if not self._step_is_begun:
            self._send("step", action)
        self._step_is_begun = False
        return self._answer("its step")

    def close(self) -> None:
        """Closes the environment and ends its process.

        Raises:
            RemoteError: the environment raised while it was closed.
        """
        if not self._end.still_active():
            return
        try:
            with contextlib.suppress(EnvironmentProcessError):
                self._drop_begun_step(_END_WITHIN_S)
                self._send("close")
                self._answer("being closed", _END_WITHIN_S)
        finally:
            self._end()

    def _drop_begun_step(self, timeout_s: float | None = None) -> None:
        if self._step_is_begun:
            self._step_is_begun = False
            with contextlib.suppress(DimeError, RemoteError):
                self._answer("its step", timeout_s)

    def _send(self, method: str, *arguments: Any, **options: Any) -> None:
        try:
            self._connection.send((method, arguments, options))
        except OSError as error:
            raise self._died() from error

    def _answer(self, what: str, timeout_s: float | None = None) -> Any:
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            if not self._connection.poll(timeout_s):
                self._end()
                raise EnvironmentProcessError(
                    f"{what} took longer than {timeout_s:g} s (env_timeout_s); the process was "
                    "ended."
                )
            kind, content = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._died(_ADVICE if what == _BEING_MADE else "") from error
        if kind == "refused":
            raise DimeError(content)
        if kind == "raised":
            text, remote = content
            raise RemoteError(text) from _RemoteTraceback(remote)
        return content

    def _died(self, advice: str = "") -> EnvironmentProcessError:
        self._process.join(_ENDS_BY_ITSELF_WITHIN_S)  # for its own exit code
        self._end()
        return EnvironmentProcessError(
            f"the environment's process ended with exit code {self._process.exitcode}.{advice}"
        )


def _start(make: Callable[[], gymnasium.Env]) -> tuple[Any, BaseProcess]:
    """This side of the pipe, and the process at its other side."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, make), daemon=True)
    try:
        with _signals_held_back():
            process.start()
    except OSError:
        ours.close()
        raise
    except Exception as error:  # what cannot be pickled says so in several ways
        ours.close()
        raise DimeError(
            f"{make} cannot be handed to another process ({error}). With env_process the "
            "environment must be an id, or a function or class of a module."
        ) from error
    finally:
        theirs.close()
    return ours, process


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """A process that is started inside gets no signal before it says what is to become of it."""
    multiprocessing.resource_tracker.ensure_running()  # which lets them through at its own start
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_US)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(process: BaseProcess, connection: Connection) -> None:
    """Ends the process at once, and what it has started."""
    connection.close()
    if process.pid is not None and process.is_alive():
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has not come as far as a group of its own
            process.kill()
    process.join(_END_WITHIN_S)


def _serve(connection: Connection, make: Callable[[], gymnasium.Env]) -> None:
    """What the process does: makes the environment, then answers until the pipe ends."""
    os.setsid()  # a group of its own, which `_end` ends as a whole
    for number in _NOT_FOR_US:
        signal.signal(number, _do_nothing)  # unlike SIG_IGN not handed on to what it starts
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _NOT_FOR_US)
    _end_with_parent()
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

    def call(method: str, arguments: tuple, options: dict[str, Any]) -> Any:
        return _brief(method, getattr(env, method)(*arguments, **options))

    _reply(connection, made)
    with contextlib.suppress(EOFError, OSError):
        while env is not None:
            method, arguments, options = connection.recv()
            _reply(connection, call, method, arguments, options)
            if method == "close":
                break


def _do_nothing(number: int, frame: Any) -> None:
    pass


def _brief(method: str, answer: Any) -> Any:
    """The answer without what of `info` nobody reads, which may not fit through a pipe."""
    expected = {"reset": 2, "step": 5}.get(method)
    if not (isinstance(answer, tuple) and len(answer) == expected):
        return answer
    info = answer[-1] if isinstance(answer[-1], dict) else {}
    return (*answer[:-1], {key: info[key] for key in SUCCESS_KEYS if key in info})


def _reply(connection: Connection, do: Callable[..., Any], *arguments: Any) -> None:
    try:
        connection.send(("answer", do(*arguments)))
    except DimeError as error:
        connection.send(("refused", str(error)))
    except Exception as error:  # whatever a user's environment raises
        connection.send(("raised", (describe(error), traceback.format_exc())))


def _end_with_parent() -> None:
    """This process and its group end when the parent has: also while a step hangs."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    if sys.platform == "linux":  # for a hang that keeps the interpreter's lock
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
