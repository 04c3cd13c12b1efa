"""Servers of other makers as plain processes on free loopback ports, for tests and for trying them by hand."""

import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import httpx

_WITHIN_S = 60.0
_STOP_WITHIN_S = 20.0


def free_ports(number: int) -> list[int]:
    """Return ports that nobody listens on."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [one.getsockname()[1] for one in held]


@contextmanager
def running(
    command: list[str], log: Path, env: Mapping[str, str] | None = None, stop_within_s: float = _STOP_WITHIN_S
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process for the block; what it says goes to `log`. It is killed if it does not end in time."""
    with log.open("ab") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, stdin=subprocess.DEVNULL, env=env)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=stop_within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_answer(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers anything by HTTP.

    Raises:
        AssertionError: it ended, or a minute has passed.
    """
    deadline = time.monotonic() + _WITHIN_S
    while True:
        assert process.poll() is None, f"{process.args!r} ended with {process.returncode}"
        try:
            httpx.get(url, timeout=5.0)
        except httpx.TransportError:
            assert time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.1)
        else:
            return


def run_until_interrupted(
    name: str,
    server: Callable[[Path], AbstractContextManager[str]],
    missing: Callable[[], str],
    credentials: Mapping[str, str],
) -> None:
    """Run a server in a temporary folder, say how to reach it, and stop it on SIGINT or SIGTERM."""
    if lacks := missing():
        raise SystemExit(f"{name} is not installed here: {lacks} missing")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with tempfile.TemporaryDirectory(prefix=f"{name.lower()}-") as folder, server(Path(folder)) as url:
        print(f"# {name} answers until it is interrupted; its data go with it")
        for variable, value in {**credentials, "STILLHOUSE_S3_ENDPOINT": url, "BENCHMARK_S3_ENDPOINT": url}.items():
            print(f"export {variable}={value}", flush=True)
        stop.wait()
