"""An environment in a separate process: one that hangs or dies is an exception here.

The process is spawned, never forked (JAX has threads), and ends with the one that made it. Nothing
but the environment's answers crosses the pipe.
"""

import contextlib
import ctypes
import multiprocessing
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from dime.envs.environment import SUCCESS_KEYS, max_episode_steps, name_of
from dime.errors import DimeError, describe

_END_WITHIN_S = 2.0
# A terminal or a scheduler sends these to the whole group; the training process saves and then
# ends this one.
_GROUP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class EnvironmentProcessError(Exception):
    """The environment's process did not answer in time, or has ended."""


class RemoteError(Exception):
    """The environment raised in its process; the cause holds the traceback from there."""


class ProcessEnv(gymnasium.Env):
    """A Gymnasium environment in a separate process; `spec` has its name and its time limit."""

    def __init__(self, make: Callable[[], gymnasium.Env], timeout_s: float):
        """Starts the process and waits until `make` has made its environment there.

        Args:
            make: must be known by name to another process.
            timeout_s: how long we wait for it, and for every later answer.

        Raises:
            DimeError: `make` cannot be handed to another process, or refuses there.
            EnvironmentProcessError: it hung or died.
            RemoteError: `make` raised there.
        """
        self._timeout_s = timeout_s
        self._step_has_begun = False
        self._connection, self._process = _start(make)
        # At the latest when this object goes, or before multiprocessing waits for its processes.
        self._end = multiprocessing.util.Finalize(
            self, _end, (self._process, self._connection), exitpriority=0
        )
        try:
            vars(self).update(self._answer("being made"))
        except BaseException:
            self._end()
            raise

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """As the environment's own, without `info`."""
        self._drop_step(self._timeout_s)
        self._send("reset", seed=seed, **({} if options is None else {"options": options}))
        return self._answer("its reset")

    def start_step(self, action: Any) -> None:
        """Sends the action; if the process is gone, `step` raises."""
        self._step_has_begun = True
        with contextlib.suppress(EnvironmentProcessError):
            self._send("step", action)

    def step(self, action: Any) -> Any:
        """As the environment's own; `info` has nothing but a success."""
        if not self._step_has_begun:
            self._send("step", action)
        self._step_has_begun = False
        return self._answer("its step")

    def close(self) -> None:
        """Closes the environment, which may raise `RemoteError`, and ends its process."""
        if not self._end.still_active():
            return
        try:
            with contextlib.suppress(EnvironmentProcessError):
                self._drop_step(_END_WITHIN_S)
                self._send("close")
                self._answer("being closed", _END_WITHIN_S)
        finally:
            self._end()

    def _drop_step(self, timeout_s: float) -> None:
        if self._step_has_begun:
            self._step_has_begun = False
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
                late = f"{what} took longer than {timeout_s:g} s (env_timeout_s)."
                raise EnvironmentProcessError(late)
            kind, content = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        if kind == "refused":
            raise DimeError(content)
        if kind == "raised":
            text, remote_traceback = content
            raise RemoteError(text) from Exception(f"\n{remote_traceback}")
        return content

    def _died(self) -> EnvironmentProcessError:
        self._process.join(1.0)  # for its own exit code
        self._end()
        how = f"exit code {self._process.exitcode}; it may have said why above."
        return EnvironmentProcessError(f"the environment's process ended with {how}")


def _start(make: Callable[[], gymnasium.Env]) -> tuple[Any, BaseProcess]:
    """This side of the pipe, and the process at its other side."""
    try:
        ForkingPickler.dumps(make)
    except Exception as error:  # what cannot be pickled says so in several ways
        raise DimeError(
            f"{make} cannot be handed to another process ({error}). With env_process the "
            "environment must be an id, or a function or class of a module."
        ) from error
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, make), daemon=True)
    multiprocessing.resource_tracker.ensure_running()  # which unblocks signals at its own start
    # The process gets no signal before it has installed its handlers.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
    return ours, process


def _end(process: BaseProcess, connection: Connection) -> None:
    """Ends the process at once, and what it has started."""
    connection.close()
    if process.pid is not None and process.is_alive():
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it does not lead a group yet
            process.kill()
    process.join(_END_WITHIN_S)


def _serve(connection: Connection, make: Callable[[], gymnasium.Env]) -> None:
    """What the process does: makes the environment, then answers until the pipe ends."""
    os.setsid()  # leads a group, which `_end` ends as a whole
    for number in _GROUP_SIGNALS:
        signal.signal(number, lambda *_: None)  # unlike SIG_IGN not inherited by what it starts
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _GROUP_SIGNALS)
    _end_with_parent()
    made: list[gymnasium.Env] = []
    _reply(connection, lambda: made.append(make()) or _facts(made[0]))
    with contextlib.suppress(EOFError, OSError):
        method = ""
        while made and method != "close":
            method, arguments, options = connection.recv()
            _reply(connection, partial(getattr(made[0], method), *arguments, **options))


def _facts(env: gymnasium.Env) -> dict[str, Any]:
    """The attributes of a `ProcessEnv`."""
    return {
        "spec": EnvSpec(name_of(env), max_episode_steps=max_episode_steps(env)),
        "observation_space": env.observation_space,
        "action_space": env.action_space,
        "metadata": {"render_fps": env.metadata.get("render_fps")},
    }


def _reply(connection: Connection, call: Callable[[], Any]) -> None:
    try:
        answer = call()
        if isinstance(answer, tuple) and answer and isinstance(info := answer[-1], dict):
            # Nobody reads the rest of `info`, which may not fit through a pipe.
            answer = (*answer[:-1], {key: info[key] for key in SUCCESS_KEYS if key in info})
        connection.send(("answer", answer))
    except DimeError as error:
        connection.send(("refused", str(error)))
    except Exception as error:  # whatever a user's environment raises
        connection.send(("raised", (describe(error), traceback.format_exc())))


def _end_with_parent() -> None:
    """This process and its group end when the parent has ended, even while a step hangs."""
    parent: Any = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    if sys.platform == "linux":  # for a hang that keeps the interpreter's lock
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
