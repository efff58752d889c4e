"""The process that trains: signals ask it to stop, and others see whether it is still there."""

import gc
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

EXIT_SAVED = 75  # of all but Ctrl-C: saved, run me again (EX_TEMPFAIL)
EXIT_CTRL_C = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


def exit_code(number: int) -> int:
    """The exit status of a process that this signal stopped."""
    return EXIT_CTRL_C if number == signal.SIGINT else EXIT_SAVED


class Interruption:
    """Notices signals while it is entered (in the main thread; elsewhere it does nothing).

    `requested` is the first signal's number, which the loop checks between its steps. A second one
    ends the process at once, after `leave(number)`; except SIGHUP, of which a closed terminal
    sends several. A thread does this, woken by the C-level handler: Python's own handlers wait for
    the main thread, which compilation can hold for minutes.
    """

    def __init__(self, leave: Callable[[int], None]) -> None:
        self.requested: int | None = None
        self.nothing_to_save = False
        self._leave = leave
        self._old_handlers: dict[int, object] = {}
        self._pipe: tuple[int, int] | None = None

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is not threading.main_thread():
            return self
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._old_wakeup = signal.set_wakeup_fd(self._pipe[1])
        for number in SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # started by nohup: it outlives its terminal
            self._old_handlers[number] = signal.signal(number, lambda *_: None)
        self._thread = threading.Thread(target=self._watch, args=(self._pipe[0],), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._pipe is None:
            return
        signal.set_wakeup_fd(self._old_wakeup)
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        os.close(self._pipe[1])
        self._thread.join()
        os.close(self._pipe[0])
        self._pipe = None

    @contextmanager
    def leaving_at_once(self) -> Iterator[None]:
        """Inside, there is nothing to save, and a signal ends the process at once."""
        self.nothing_to_save = True
        if self.requested is not None:
            self._end(self.requested)
        try:
            yield
        finally:
            self.nothing_to_save = False

    def _end(self, number: int) -> None:
        try:
            self._leave(number)
        finally:
            os._exit(exit_code(number))

    def _watch(self, descriptor: int) -> None:
        while received := os.read(descriptor, 1):
            number = received[0]
            if number not in SIGNALS:
                continue
            if self.nothing_to_save or (self.requested and number != signal.SIGHUP):
                self._end(number)
            self.requested = self.requested or number


@contextmanager
def collector_paused() -> Iterator[None]:
    """Inside, Python looks for no cyclic garbage, a sixth of the time of imports and tracing."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


SILENT_S = 3600.0
"""A run of another host counts as dead once its status.json is older, in seconds."""


def this_process() -> dict[str, Any]:
    """The process that writes status.json, as it appears there."""
    pid = os.getpid()
    return {
        "pid": pid,
        "started": _look_up(pid)[1],
        "host": socket.gethostname(),
        "namespace": _namespace(),
    }


def _namespace() -> int:
    """The namespace of process ids: containers of one host have different ones."""
    return os.stat("/proc/self/ns/pid").st_ino


def is_gone(process: Any, silent_s: float) -> bool:
    """Whether a process, as `this_process` describes it, has ended.

    A process of another host or container, or of a release that did not note it, counts as ended
    after `SILENT_S` of silence.
    """
    here = {"host": socket.gethostname(), "namespace": _namespace()}
    match process:
        case {"pid": int(pid), "started": started, **rest} if 0 < pid < 2**31 and rest == here:
            pass
        case _:
            return silent_s > SILENT_S
    try:
        os.kill(pid, 0)  # no signal: asks whether there is such a process
    except ProcessLookupError:
        return True
    except OSError:  # there is, of another user
        pass
    state, found = _look_up(pid)
    return state in ("Z", "X") or (None not in (started, found) and started != found)


def _look_up(pid: int) -> tuple[str, int | None]:
    """State and start (clock ticks since boot) of a process; nothing if it is hidden."""
    try:
        # proc_pid_stat(5): the third field and the 22nd; the second may hold blanks.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, ValueError, IndexError):
        return "", None
