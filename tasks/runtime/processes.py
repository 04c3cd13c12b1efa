"""Processes told apart for ever: a number that was used again is another process."""

import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from tasks.contracts.value import Value

_POLL_S = 0.05


class ProcessId(Value):
    """One process, by its number and the moment of its start."""

    pid: int
    started: str
    """Of no meaning but to be compared: on Linux the boot and the clock tick, which no change of the clock moves."""


def identify(pid: int) -> ProcessId | None:
    """Return which process has this number now, or None if none runs; a zombie does not."""
    try:
        if sys.platform == "linux":
            # after the name, which may hold spaces and brackets, come the state and, as the 20th, the start
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            state, started = fields[0], f"{_boot()}/{fields[19]}"
        else:
            import psutil

            if not psutil.pid_exists(pid):
                return None
            process = psutil.Process(pid)
            state = "Z" if process.status() == psutil.STATUS_ZOMBIE else ""
            started = f"{process.create_time():.2f}"
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in ("Z", "X") else ProcessId(pid=pid, started=started)


def myself() -> ProcessId:
    """Return this process."""
    found = identify(os.getpid())
    assert found is not None, "this process runs"
    return found


def is_running(process: ProcessId) -> bool:
    """Tell whether this very process runs."""
    return identify(process.pid) == process


def send(process: ProcessId, number: signal.Signals) -> bool:
    """Send a signal to this very process; return whether it was still there.

    Raises:
        PermissionError: it is another user's.
    """
    if sys.platform != "linux":
        if not is_running(process):
            return False
        os.kill(process.pid, number)
        return True
    try:
        # the descriptor stays that of one process: what is looked at below is what gets the signal
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        if not is_running(process):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def marked(name: str, value: str) -> set[ProcessId]:
    """Return the processes of this user that have this variable in their environment: one, and all it started."""
    import psutil  # not in every image that looks for running services

    found = set()
    for pid in psutil.pids():
        process = identify(pid)
        if process is None:
            continue
        try:
            if psutil.Process(pid).environ().get(name) == value:
                found.add(process)
        except (psutil.Error, OSError):  # another user's, or gone meanwhile
            continue
    return found


def end(processes: Iterable[ProcessId], number: signal.Signals, within_s: float) -> set[ProcessId]:
    """Ask processes to end, kill those that have not done so within `within_s`, and return the killed ones."""
    left = {process for process in processes if send(process, number)}
    if _gone(left, within_s):
        return set()
    late = {process for process in left if send(process, signal.SIGKILL)}
    _gone(late, within_s)
    return late


def _gone(processes: set[ProcessId], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while any(map(is_running, processes)):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
