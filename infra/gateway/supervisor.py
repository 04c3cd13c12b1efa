"""Several gateway processes on one port: started together, replaced when one dies, ended in order."""

import logging
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from infra.gateway.config import GatewayConfig
from infra.gateway.request_log import LogFormat
from infra.gateway.server import gateway_url, shared_socket

_CHECK_INTERVAL_S = 0.1
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_SOUND_AFTER_S = 30.0
_FLUSH_S = 15.0
_NOT_TRIED_AGAIN = (2, 3)
"""Exit codes for a wrong setting and for an address that cannot be had."""

logger = logging.getLogger(__name__)


class _Worker:
    """One place among the workers, and the process that holds it."""

    def __init__(self, replica: str, command: list[str]) -> None:
        self.replica = replica
        self._command = command
        self._process: subprocess.Popen[str] | None = None
        self._started_at = self._due_at = 0.0
        self._pause_s = _FIRST_PAUSE_S

    def start(self) -> None:
        """Start the process; it ends in order when this one dies, since its standard input is closed then."""
        pipe = subprocess.PIPE
        # a session of its own, so that Ctrl-C reaches this process alone and the workers end in order
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
        self._started_at = time.monotonic()

    def wait_until_it_serves(self) -> int | None:
        """Wait for the address that it says when it serves; return its exit code if it ended instead."""
        assert self._process is not None
        assert self._process.stdout is not None
        return None if self._process.stdout.readline() else self._process.wait()

    def tend(self) -> None:
        """Start it again when it has died, each time after a longer pause; one that lived long begins anew."""
        now = time.monotonic()
        if self._process is None:
            if now >= self._due_at:
                self.start()
            return
        code = self._process.poll()
        if code is None:
            return
        if now - self._started_at >= _SOUND_AFTER_S:
            self._pause_s = _FIRST_PAUSE_S
        logger.error("worker %s ended with code %d; another starts in %g s", self.replica, code, self._pause_s)
        self._release()
        self._due_at = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def send(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def end(self, within_s: float) -> None:
        """Wait for its end, and force it after `within_s`."""
        if self._process is None:
            return
        try:
            self._process.wait(timeout=within_s)
        except subprocess.TimeoutExpired:
            logger.error("worker %s did not end in time and is killed", self.replica)
            self._process.kill()
            self._process.wait()
        self._release()

    def _release(self) -> None:
        assert self._process is not None
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process = None


def supervise(
    config: GatewayConfig, num_workers: int, log_format: LogFormat, on_listening: Callable[[str], None] | None = None
) -> int:
    """Run `num_workers` gateways until SIGINT or SIGTERM; return 0, or the exit code of one that cannot start.

    SIGTERM, SIGINT and SIGHUP go on to the workers. Their replicas are named after this one's, with a number.

    Args:
        config: of each, but for its replica's name.
        num_workers: how many.
        log_format: `text` or `json`.
        on_listening: is told the address once all serve.

    Raises:
        OSError: the address is taken or not ours.
    """
    stopping = threading.Event()
    # Bound and not listening, it gets no connection; it keeps the port while no worker does, and finds a free one.
    with shared_socket(config) as reserved, tempfile.TemporaryDirectory(prefix="stillhouse-gateway-") as folder:
        shared = {"port": reserved.getsockname()[1], "reuse_port": True, "peer_sockets": Path(folder)}
        config = config.model_copy(update=shared)
        file = Path(folder) / "config.json"
        file.write_text(config.model_dump_json(exclude={"replica"}))
        workers = [_worker(f"{config.replica}-{number}", file, log_format) for number in range(num_workers)]

        def stop(_number: int, _frame: FrameType | None) -> None:
            stopping.set()
            for worker in workers:
                worker.send(signal.SIGTERM)

        def reload(_number: int, _frame: FrameType | None) -> None:
            for worker in workers:
                worker.send(signal.SIGHUP)

        handlers = {signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGHUP: reload}
        previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            for worker in workers:
                worker.start()
            return _tend(workers, stopping, lambda: on_listening and on_listening(gateway_url(config, config.port)))
        finally:
            stop(signal.SIGTERM, None)
            for worker in workers:
                worker.end(config.drain_grace_s + config.drain_s + _FLUSH_S)
            for number, old in previous.items():
                signal.signal(number, old)


def _tend(workers: list[_Worker], stopping: threading.Event, on_serving: Callable[[], object]) -> int:
    for code in [worker.wait_until_it_serves() for worker in workers]:
        if code in _NOT_TRIED_AGAIN:
            return code
    if not stopping.is_set():
        on_serving()
    while not stopping.wait(_CHECK_INTERVAL_S):
        for worker in workers:
            worker.tend()
    return 0


def _worker(replica: str, config_file: Path, log_format: LogFormat) -> _Worker:
    command = [sys.executable, "-m", "infra.gateway", "--config", str(config_file), "--replica", replica]
    return _Worker(replica, [*command, "--log-format", log_format, "--end-with-stdin"])
