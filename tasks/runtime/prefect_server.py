"""A Prefect server for the length of one process, where none is addressed.

Prefect can start a temporary server by itself, but that one outlives a command that is killed. This one
ends with its parent, however the parent dies: its standard input reaches end-of-file. It also starts while
the parent is still importing, since its port is known before Prefect is imported on either side.
"""

import os
import signal
import socket
import subprocess
import sys
import threading

from tasks.adapters.locks import FileLocks
from tasks.contracts.errors import ServiceUnavailableError
from tasks.runtime.settings import Settings, current_settings

_HOST = "127.0.0.1"


_running: list[subprocess.Popen[str]] = []
"""Keeps the pipe open: closing it ends the server."""


def start_prefect_server(settings: Settings) -> None:
    """Make sure that PREFECT_API_URL names a server as long as this process lives. Call it before importing prefect.

    Does nothing where a server or a profile is named already.

    Raises:
        ServiceUnavailableError: the server did not start; its log is named.
    """
    if os.environ.get("PREFECT_API_URL") or os.environ.get("PREFECT_HOME") != str(settings.home / "prefect"):
        return
    assert "prefect" not in sys.modules, "prefect reads its settings when it is imported"
    log_path = settings.home / "logs" / "prefect-server.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as log:
        # a session of its own: Ctrl-C must not take the server away before the flow has said how it ended
        process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    assert process.stdout is not None
    port = process.stdout.readline().strip()
    if not port:
        raise ServiceUnavailableError(f"the Prefect server ended with code {process.wait()}; see {log_path}")
    _running.append(process)
    os.environ["PREFECT_API_URL"] = f"http://{_HOST}:{port}/api"


def _serve() -> None:
    """Be the server: say the port, then serve. Clients that come early wait in the socket's queue."""
    listening = socket.create_server((_HOST, 0))
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # as Prefect sets them for its own temporary server: no pages, no warnings about them
    os.environ |= {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            # two that migrate one new database at once break each other
            with FileLocks(current_settings().home / "locks").hold("Prefect server starts"):
                await super().startup(sockets)

    config = uvicorn.Config("prefect.server.api.server:create_app", factory=True, log_level="error", lifespan="on")
    Server(config).run(sockets=[listening])


def _end_with_parent() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    _serve()
