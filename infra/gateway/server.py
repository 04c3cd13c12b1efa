"""A gateway process: listens, serves, and leaves nothing unwritten when it is told to stop."""

import asyncio
import gc
import logging
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable

import uvicorn

from infra.gateway.access import Access
from infra.gateway.admission import Admission
from infra.gateway.app import create_app
from infra.gateway.config import GatewayConfig
from infra.gateway.connection import connection_class
from infra.gateway.tls import Tls

_KEEP_ALIVE_S = 75  # longer than clients keep idle connections, so that none is closed under a request
_SWITCH_INTERVAL_S = 0.0005
_BACKLOG = 2048
_POLL_S = 0.05

logger = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, admission: Admission, grace_s: float) -> None:
        super().__init__(config)
        self.on_started: Callable[[], None] | None = None
        self._admission = admission
        self._grace_s = grace_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then spare the collector what lives as long as the process: 15 µs of every request."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        if self.on_started:
            self.on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Say first that no more requests are wanted, and end when those that send them have heard it."""
        self._admission.draining = True
        until = time.monotonic() + self._grace_s
        while time.monotonic() < until and not self.force_exit:
            await asyncio.sleep(_POLL_S)
        self._admission.closed = True
        await super().shutdown(sockets)


class GatewayServer:
    """One gateway on one socket, which is bound at once, so that `url` is known before it serves.

    On a port of its own it also listens at once: who connects early waits a moment. On a shared port it listens when
    its models are loaded, since the others can answer until then.
    """

    def __init__(self, config: GatewayConfig) -> None:
        """Bind the socket.

        Raises:
            OSError: the address is taken or not ours.
            TokensError: the file of tokens cannot be used.
            TlsError: certificate or key cannot be used.
            UserError: the settings ask for what is not installed.
        """
        self._access = None if config.tokens is None else Access(config.tokens)
        self._tls = None if config.tls_cert is None or config.tls_key is None else Tls(config.tls_cert, config.tls_key)
        limits = config.model_dump(include={"num_threads", "max_queue", "max_uploads", "deadline_s"})
        admission = Admission(**limits)
        application = create_app(config, admission, self._access)  # a setting that it refuses must leave no socket open
        self._socket = shared_socket(config) if config.reuse_port else _listening_socket(config)
        self.url = gateway_url(config, self._socket.getsockname()[1])
        self._server = _Server(
            uvicorn.Config(
                application,
                loop="uvloop",
                http=connection_class(admission, config.header_timeout_s, application.at_once),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                ssl_context_factory=None if self._tls is None else self._context,
                limit_concurrency=config.max_connections,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=max(1, round(config.drain_s)),
            ),
            admission,
            config.drain_grace_s,
        )

    def run(self, on_started: Callable[[], None] | None = None) -> None:
        """Serve until told to stop, then answer what is running, write the logs, and return."""
        self._server.on_started = on_started
        # Threads that log and shadow must not keep the event loop waiting for Python's usual 5 ms.
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        self._server.run(sockets=[self._socket])

    def reload(self) -> None:
        """Read tokens and certificate again; what is broken stays as it was, and the log says so."""
        for part in (self._access, self._tls):
            if part is not None:
                part.reload()

    def stop(self) -> None:
        """Tell `run`, in another thread, to stop."""
        self._server.should_exit = True

    def _context(self, *_: object) -> ssl.SSLContext:
        assert self._tls is not None
        return self._tls.context


def serve(config: GatewayConfig, on_listening: Callable[[str], None] | None = None) -> None:
    """Serve until SIGINT or SIGTERM; `on_listening` is told the gateway's address.

    SIGHUP reads tokens and certificate again.

    Raises:
        OSError: the address is taken or not ours.
        TokensError: the file of tokens cannot be used.
        TlsError: certificate or key cannot be used.
    """
    server = GatewayServer(config)
    if threading.current_thread() is threading.main_thread():
        # Counts before uvicorn listens to signals itself; afterwards uvicorn raises the signal anew when all is
        # done, and that must not kill a process that ended well.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: server.stop())
        signal.signal(signal.SIGHUP, lambda *_: server.reload())

    def announce() -> None:
        logger.info("gateway %s listens on %s", config.replica, server.url)
        if on_listening:
            on_listening(server.url)

    if config.reuse_port:
        server.run(announce)
    else:
        announce()
        server.run()


def shared_socket(config: GatewayConfig) -> socket.socket:
    """Return a socket bound to the port that several gateways share; it gets no connection until it listens.

    Raises:
        OSError: the address is taken or not ours.
    """
    shared = socket.socket(_family(config), socket.SOCK_STREAM)
    try:
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind((config.host, config.port))
    except OSError:
        shared.close()
        raise
    return shared


def gateway_url(config: GatewayConfig, port: int) -> str:
    """Return the address of a gateway that has got `port`."""
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"{'http' if config.tls_cert is None else 'https'}://{host}:{port}"


def _listening_socket(config: GatewayConfig) -> socket.socket:
    return socket.create_server((config.host, config.port), family=_family(config), backlog=_BACKLOG)


def _family(config: GatewayConfig) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in config.host else socket.AF_INET
