"""A gateway process: listens, serves, and leaves nothing unwritten when it is told to stop."""

import gc
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable

import uvicorn

from infra.gateway.app import create_app
from infra.gateway.config import GatewayConfig

_KEEP_ALIVE_S = 75  # longer than clients keep idle connections, so that none is closed under a request
_SWITCH_INTERVAL_S = 0.0005
_BACKLOG = 2048

logger = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then spare the collector what lives as long as the process: 15 µs of every request."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()


class GatewayServer:
    """One gateway on one socket, which is bound at once, so that `url` is known before it serves."""

    def __init__(self, config: GatewayConfig) -> None:
        """Bind the socket.

        Raises:
            OSError: the address is taken or not ours.
            UserError: the settings ask for what is not installed.
        """
        application = create_app(config)  # first: a setting that it refuses must leave no socket open
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        self._socket = socket.create_server(
            (config.host, config.port), family=family, backlog=_BACKLOG, reuse_port=config.reuse_port
        )
        host = f"[{config.host}]" if family == socket.AF_INET6 else config.host
        self.url = f"http://{host}:{self._socket.getsockname()[1]}"
        self._server = _Server(
            uvicorn.Config(
                application,
                loop="uvloop",
                http="httptools",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=config.max_connections,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, round(config.drain_s)),
            )
        )

    def run(self) -> None:
        """Serve until told to stop, then answer what is running, write the logs, and return."""
        # Threads that log and shadow must not keep the event loop waiting for Python's usual 5 ms.
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Tell `run`, in another thread, to stop."""
        self._server.should_exit = True


def serve(config: GatewayConfig, on_listening: Callable[[str], None] | None = None) -> None:
    """Serve until SIGINT or SIGTERM; `on_listening` is told the gateway's address.

    Raises:
        OSError: the address is taken or not ours.
    """
    server = GatewayServer(config)
    if threading.current_thread() is threading.main_thread():
        # Counts before uvicorn listens to signals itself; afterwards uvicorn raises the signal anew when all is
        # done, and that must not kill a process that ended well.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: server.stop())
    logger.info("gateway %s listens on %s", config.replica, server.url)
    if on_listening:
        on_listening(server.url)
    server.run()
