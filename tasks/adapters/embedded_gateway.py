"""A gateway for the length of a rollout, where none serves this store yet."""

import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.adapters.gateway_client import GatewayClient
from tasks.adapters.gateway_companion import companion
from tasks.adapters.route_store import RouteStore
from tasks.contracts.errors import ServiceUnavailableError
from tasks.runtime.services import connect
from tasks.runtime.settings import Settings, environment_of_services

_STOP_WITHIN_S = 30.0
_READY_WITHIN_S = 60.0
_SHIP_S = 2.0
"""A rollout that a run watches itself looks at its traffic every few seconds."""


@contextmanager
def gateway(settings: Settings, model_name: str) -> Iterator[str]:
    """Give the address of a gateway that serves `model_name` from this store; start one if there is none.

    Raises:
        ServiceUnavailableError: it did not start; its log is named.
    """
    if _is_served(settings, model_name):
        yield settings.gateway_url
        return
    log_path = settings.home / "logs" / "gateway-companion.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with companion(settings, _SHIP_S, log_path), _own_gateway(settings, model_name) as url:
        yield url


@contextmanager
def _own_gateway(settings: Settings, model_name: str) -> Iterator[str]:
    log_path = settings.home / "logs" / "gateway.log"
    roots = settings.store_root, settings.traffic_root
    with run_gateway(settings.gateway_command, *roots, log_path, settings.gateway_environment) as url:
        _wait_until_ready(url, model_name, log_path)
        yield url


@contextmanager
def run_gateway(
    command: Sequence[str], store: Path, traffic: Path, log_path: Path, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Start a gateway on a free port of the loopback interface for the block, and give its address.

    It also ends when this process is killed: its standard input is then closed. It asks nobody for a token, since
    it is reached from this machine alone and for this long.

    Args:
        command: what starts a gateway, without its options.
        store: its artifact and document store.
        traffic: its prediction log.
        log_path: where its messages go.
        environment: what it finds in its environment beside what this process does, secrets excepted.

    Raises:
        ServiceUnavailableError: it did not start; its log is named.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    options = ["--end-with-stdin", "--port", "0", "--store", str(store), "--traffic", str(traffic)]
    given = environment_of_services() | dict(environment or {})
    pipe = subprocess.PIPE
    with (
        log_path.open("ab") as log,
        _started(
            [*command, *options],
            env={name: value for name, value in given.items() if name != "STILLHOUSE_GATEWAY_TOKENS"},
            stdin=pipe,
            stdout=pipe,
            stderr=log,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise ServiceUnavailableError(f"the gateway ended with code {process.wait()}; see {log_path}")
            yield url
        finally:
            process.terminate()
            try:
                process.wait(timeout=_STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _started(command: list[str], **options: Any) -> "subprocess.Popen[str]":
    try:
        return subprocess.Popen(command, **options)
    except OSError as error:
        raise ServiceUnavailableError(
            f"the gateway cannot be started by {command[0]!r}: {error.strerror}; see STILLHOUSE_SERVING_COMMAND"
        ) from error


def _wait_until_ready(url: str, model_name: str, log_path: Path) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    with GatewayClient(url) as client:
        while not client.ready(model_name):
            if time.monotonic() > deadline:
                raise ServiceUnavailableError(
                    f"the gateway at {url} does not serve {model_name!r} after {_READY_WITHIN_S:.0f} s; see {log_path}"
                )
            time.sleep(0.1)


def _is_served(settings: Settings, model_name: str) -> bool:
    """Tell whether a gateway both renews its acknowledgements in this store and answers at the address."""
    services = connect(settings)
    routes = RouteStore(services.documents, services.acknowledgements)
    if not routes.live(model_name):
        return False
    with GatewayClient(settings.gateway_url) as client:
        try:
            return client.ready(model_name)
        except ServiceUnavailableError:
            return False
