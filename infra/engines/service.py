"""One service: how it is started, and how it is known to be ready."""

import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import httpx

from tasks.contracts.errors import UserError

HOST = "127.0.0.1"
_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Service:
    """What is to be run."""

    name: str
    command: list[str]
    is_ready: Callable[[], bool]
    address: str
    """What others use to reach it; empty if nobody does."""
    page: str
    """What a person opens, or what the service works for."""
    environment: Mapping[str, str]
    """All of it: nothing is inherited besides."""
    stop_signal: signal.Signals = signal.SIGTERM
    stop_within_s: float = 20.0
    then: Callable[[], None] = field(default=lambda: None)
    """Called once when it is ready, before anything else is started that may rest on it."""


def answers(url: str) -> Callable[[], bool]:
    """Return the check that an address answers 200."""

    def check() -> bool:
        try:
            return httpx.get(url, timeout=_TIMEOUT_S, trust_env=False).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    return check


def has_worker(prefect_api: str, pool: str, worker: str) -> Callable[[], bool]:
    """Return the check that a Prefect server knows a worker of this name as online."""

    def check() -> bool:
        try:
            found = httpx.post(
                f"{prefect_api}/work_pools/{pool}/workers/filter", json={}, timeout=_TIMEOUT_S, trust_env=False
            )
        except httpx.TransportError:
            return False
        known = found.json() if found.status_code == httpx.codes.OK else []
        return any(one["name"] == worker and one["status"] == "ONLINE" for one in known)

    return check


def free_ports(wanted: Mapping[str, int]) -> dict[str, int]:
    """Return a port for each option: the one that is wanted, or for 0 one that is free, no two alike.

    Raises:
        UserError: something else listens there. It might answer as the service would, and be taken for it.
    """
    with ExitStack() as held:
        return {option: _free_port(held, option, port) for option, port in wanted.items()}


def _free_port(held: ExitStack, option: str, wanted: int) -> int:
    try:
        listening = held.enter_context(socket.create_server((HOST, wanted)))
    except OSError as error:
        raise UserError(
            f"port {wanted} of {HOST} cannot be used ({error.strerror}); choose another with {option}, or 0 for a free "
            "one"
        ) from error
    return int(listening.getsockname()[1])
