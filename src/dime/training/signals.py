"""Stopping a run: SIGINT, SIGTERM, SIGUSR1 and SIGHUP ask for it, and it saves first."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

EXIT_SAVED = 75  # of all but Ctrl-C: saved, run me again (EX_TEMPFAIL)
EXIT_CTRL_C = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


def exit_code(number: int) -> int:
    """What a process that this signal stopped exits with."""
    return EXIT_CTRL_C if number == signal.SIGINT else EXIT_SAVED


class Interruption:
    """Notices signals while it is entered (in the main thread; elsewhere it does nothing).

    `requested` is the first signal's number, which the loop looks at between its steps. A second
    signal leaves the process at once, but not a further SIGHUP: a closed terminal sends several,
    and service managers send one after SIGTERM. During a phase that holds the interpreter for long
    (compilation), nothing new is to be saved: there the first signal does so. Before, `leave` is
    called with the signal's number. A thread does all this, woken by the C-level handler, because
    Python's own handlers wait for the main thread; raising from a handler in mid-compilation ends
    in a segmentation fault.
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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
        """While entered, there is nothing to save, and a signal ends the process at once."""
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
