"""Server processes under measurement: each on one core, with what it takes of processor and memory."""

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from tasks.contracts.errors import ServiceUnavailableError

_STOP_WITHIN_S = 30.0
_TOLD_WITHIN_S = 300.0
"""For the address: a cluster on one core takes minutes to start."""
_CLIENT_CORE, _SERVER_CORE = 0, -1


@dataclass(frozen=True)
class Server:
    """A process that listens on a loopback port, or will in a moment."""

    name: str
    process: psutil.Popen
    port: int
    started: float
    """Reading of `time.monotonic` when it was started."""

    def cpu_seconds(self) -> float:
        """Return user and system time of the process and its children."""
        return sum(_cpu_seconds(process) for process in self._family())

    def resident_bytes(self) -> int:
        """Return the memory of the process and its children; what they share counts for each."""
        return int(sum(process.memory_info().rss for process in self._family()))

    def _family(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


def _cpu_seconds(process: psutil.Process) -> float:
    """Return what a process's living threads took: from Linux's scheduler in ns, where usual counters step by 10 ms."""
    counts = list(Path(f"/proc/{process.pid}/task").glob("*/schedstat"))
    if counts:
        return sum(int(count.read_text().split()[0]) for count in counts) * 1e-9
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def serving(name: str, command: list[str]) -> Iterator[Server]:
    """Start a server that prints its address as its first line; on the servers' core, with one thread for a model.

    Raises:
        ServiceUnavailableError: it ended without an address, or was ended because it told none in time.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    with _on_core(_SERVER_CORE):
        process = psutil.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    with process:
        try:
            url = _first_line(process)
            port = urlsplit(url).port
            if port is None:
                raise ServiceUnavailableError(f"{' '.join(command[:3])} gave no address but {url!r}; see its output")
            yield Server(name, process, port, started)
        finally:
            _end(process)


def _first_line(process: psutil.Popen) -> str:
    """Return what a server prints first; nothing if it ends before, or takes too long and is ended."""
    late = threading.Timer(_TOLD_WITHIN_S, _end, [process])
    late.start()
    try:
        line: str = process.stdout.readline()
    finally:
        late.cancel()
        late.join()  # if it was too late to cancel it, it is ending the server
    return line.strip()


@contextmanager
def client_core() -> Iterator[None]:
    """Keep this thread off the servers' core."""
    with _on_core(_CLIENT_CORE):
        yield


@contextmanager
def _on_core(position: int) -> Iterator[None]:
    """Keep this thread, and the processes that it starts, on one core; without effect on a single core."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(cores)[position]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _end(process: psutil.Popen) -> None:
    """Stop a server and whatever it has started, unless it has ended."""
    if process.poll() is not None:
        return
    family = process.children(recursive=True)
    process.terminate()
    _, alive = psutil.wait_procs([process, *family], timeout=_STOP_WITHIN_S)
    for one in alive:
        one.kill()
