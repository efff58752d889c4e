"""Which process trains a run, and whether it is still there: no run can note its own death."""

import os
import socket
from pathlib import Path
from typing import Any

SILENT_S = 3600.0
"""A run of another host counts as dead once its status.json is older, in seconds.

It is replaced every `log_every` env steps and after every evaluation.
"""


def this_process() -> dict[str, Any]:
    """What status.json says of the process that writes it."""
    pid = os.getpid()
    return {
        "pid": pid,
        "started": _look_up(pid)[1],
        "host": socket.gethostname(),
        "namespace": _namespace(),
    }


def _namespace() -> int | None:
    """Where process ids mean what they mean to this process: containers of a host differ."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None


def is_gone(process: Any, silent_s: float) -> bool:
    """Whether a process, as `this_process` describes it, has ended.

    Of another host or container, and of runs of releases that did not note their process, only the
    seconds of silence can tell.
    """
    match process:
        case {"host": host, "namespace": namespace, "pid": int(pid), "started": started} if (
            host,
            namespace,
        ) == (socket.gethostname(), _namespace()) and 0 < pid < 2**31:
            return _is_gone_here(pid, started)
    return silent_s > SILENT_S


def _is_gone_here(pid: int, started: int | None) -> bool:
    try:
        os.kill(pid, 0)  # no signal: asks whether there is such a process
    except ProcessLookupError:
        return True
    except OSError:  # there is, of another user
        pass
    state, found = _look_up(pid)
    return state in ("Z", "X") or (None not in (started, found) and started != found)


def _look_up(pid: int) -> tuple[str, int | None]:
    """State and start (clock ticks since boot) of a process; nothing where there is no /proc."""
    try:
        # proc_pid_stat(5): the third field and the 22nd; the second may hold blanks.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, ValueError, IndexError):
        return "", None
