"""Runs the processes that train one model together on this machine: all of them, or none.

The environment tells each its place, under the names that torch and its launchers use.
"""

import socket
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from tasks.contracts.errors import WorkerLostError
from tasks.runtime.isolation import Message, StageCall, StageProcess

_LOOPBACK = "127.0.0.1"
_LAST_WORDS_S = 5.0
"""How long the failure of one process is waited for when another says that it lost its peers."""


def crew_environment(rank: int, size: int, address: str, port: int) -> dict[str, str]:
    """Return what tells a process its place among `size`, whose first one listens at `address` and `port`."""
    return {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": address, "MASTER_PORT": str(port)}


def free_port(host: str) -> int:
    """Return a port that is free now."""
    with socket.create_server((host, 0)) as listening:
        return int(listening.getsockname()[1])


def run_crew(call: StageCall, size: int, devices: list[str], on_progress: Callable[[Any], None]) -> Message:
    """Make the call in `size` processes at once and return how the first of them ended.

    When one fails, the others are ended, and it is that one's failure that counts.

    Args:
        call: what each of them calls.
        size: how many.
        devices: CUDA devices, one for each process; empty where they use none.
        on_progress: told what the first process reports.

    Raises:
        RunStoppedError: the run was told to stop.
        WorkerLostError: one of them was lost.
    """
    port = free_port(_LOOPBACK)
    processes = [StageProcess(call, _environment(rank, size, port, devices)) for rank in range(size)]
    with ThreadPoolExecutor(size) as threads:
        running = [
            threads.submit(process.run, on_progress if rank == 0 else _ignore) for rank, process in enumerate(processes)
        ]
        try:
            return _first_failure_or(running)
        finally:
            for process in processes:
                process.kill()


def _environment(rank: int, size: int, port: int, devices: list[str]) -> Mapping[str, str]:
    visible = {"CUDA_VISIBLE_DEVICES": devices[rank]} if devices else {}
    return crew_environment(rank, size, _LOOPBACK, port) | visible


def _first_failure_or(running: list["Future[Message]"]) -> Message:
    """Return what the first process answered once all have, or what another failed with.

    A process whose peer has failed is lost too, and may say so first; so a loss counts only where no other failure
    comes soon after it.
    """
    pending = set(running)
    while pending:
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        if any(_is_lost(one) for one in done):
            done |= wait(pending, timeout=_LAST_WORDS_S).done
            for one in sorted(done, key=_is_lost):
                if _is_lost(one) or "error" in one.result():
                    return one.result()
        for one in done:
            if "error" in one.result():
                return one.result()
    return running[0].result()


def _is_lost(answered: "Future[Message]") -> bool:
    """Tell whether a process was lost, or says that it lost its peers."""
    if answered.exception() is not None:
        return True
    return bool(answered.result().get("error", {}).get("class") == WorkerLostError.__name__)


def _ignore(_: Any) -> None:
    """Drop the progress of all but the first process; it is the same."""
