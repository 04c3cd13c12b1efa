"""A Prefect server of its own on the loopback interface, as a test needs it that watches what the server does."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
_CALM = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_UI_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "ERROR",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "true",
}
_PREFECT = (sys.executable, "-m", "prefect")


@dataclass(frozen=True)
class PrefectServer:
    """Its address, and its command line."""

    address: str
    environment: dict[str, str]

    def command(self, *arguments: str) -> None:
        """Run `prefect ARGUMENTS` in the checkout."""
        done = subprocess.run(
            [*_PREFECT, "--no-prompt", *arguments], env=self.environment, cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def filtered(self, what: str, **wanted: Any) -> list[dict[str, Any]]:
        """Return the server's objects of a kind."""
        answer = httpx.post(f"{self.address}/{what}/filter", json=wanted, trust_env=False, timeout=120)
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()
        return found


@contextmanager
def prefect_server(folder: Path, **settings: str) -> Iterator[PrefectServer]:
    """Run a server with its state below `folder`, and with these settings of Prefect's."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}/api"
    environment = os.environ | _CALM | {"PREFECT_HOME": str(folder / "prefect"), "STILLHOUSE_PROJECT": str(ROOT)}
    environment |= {"PREFECT_API_URL": address, "PYTHONPATH": str(ROOT)} | settings
    start = [*_PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(start, env=environment, stdout=log, stderr=log)
        try:
            until(lambda: _answers(f"{address}/health"), 600, "the server did not start")
            yield PrefectServer(address, environment)
        finally:
            process.terminate()
            process.wait(timeout=60)


def until(condition: Callable[[], Any], seconds: float, message: str) -> Any:
    """Ask until the answer is true, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, message
        time.sleep(0.2)
    return found


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
