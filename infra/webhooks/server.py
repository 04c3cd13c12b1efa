"""A receiver's process: listens until it is told to stop."""

import signal
import socket
import threading
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette

_MAX_CONNECTIONS = 64
_DRAIN_S = 15


class WebhookServer:
    """One receiver on one socket, which is bound at once, so that `url` is known before it serves."""

    def __init__(self, app: Starlette, host: str = "127.0.0.1", port: int = 0) -> None:
        """Bind the socket.

        Raises:
            OSError: the address is taken or not ours.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family)
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        self.url = f"http://{shown}:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=_MAX_CONNECTIONS,
                timeout_graceful_shutdown=_DRAIN_S,
            )
        )

    def run(self) -> None:
        """Serve until told to stop; the model that is being reconciled is finished first."""
        if threading.current_thread() is threading.main_thread():
            # uvicorn raises the signal anew when all is done, and that must not kill a process that ended well
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: self.stop())
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Tell `run`, in another thread, to stop."""
        self._server.should_exit = True


def serve(app: Starlette, host: str, port: int, on_listening: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; `on_listening` is told the address.

    Raises:
        OSError: the address is taken or not ours.
    """
    server = WebhookServer(app, host, port)
    on_listening(server.url)
    server.run()
