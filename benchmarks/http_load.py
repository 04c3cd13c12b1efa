"""HTTP on plain sockets, which costs a client less than any library: one request at a time, or on many connections."""

import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import numpy as np

from tasks.contracts.errors import ServiceUnavailableError

K = TypeVar("K")

REQUESTS_PER_ROUND = 100
_OK = 200
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_WARM_UPS = 300
_READY_WITHIN_S = 120.0
_RETRY_S = 0.05


def http_request(path: str, body: bytes, headers: str = "content-type: application/json\r\n") -> bytes:
    """Return a POST request; `headers` end with a line break each."""
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Client:
    """Sends the given requests in turn, one at a time.

    Each round has a connection of its own, since servers close those that were idle while others had their turn.
    """

    def __init__(self, port: int, requests: Sequence[bytes]) -> None:
        self._port, self._requests = port, requests

    def warm_up(self) -> float:
        """Wait until the server has its model, then send until nothing is new to it; return when it answered first.

        Returns:
            A reading of `time.monotonic`.

        Raises:
            ServiceUnavailableError: it did not answer with 200 in time.
        """
        deadline = time.monotonic() + _READY_WITHIN_S
        with _connection(self._port) as connection:
            while (status := self._send(connection, 0)) != _OK:
                if time.monotonic() > deadline:
                    raise ServiceUnavailableError(f"a server still answers {status} after {_READY_WITHIN_S:.0f} s")
                time.sleep(_RETRY_S)
            ready_at = time.monotonic()
            for number in range(_WARM_UPS):
                self._send(connection, number)
        return ready_at

    def round(self) -> float:
        """Return the mean seconds that each of `REQUESTS_PER_ROUND` requests took.

        Raises:
            ServiceUnavailableError: one was not answered with 200; a rate with failures means nothing.
        """
        with _connection(self._port) as connection:
            _require_ok(self._send(connection, 0))
            started = time.perf_counter()
            for number in range(REQUESTS_PER_ROUND):
                _require_ok(self._send(connection, number))
            return (time.perf_counter() - started) / REQUESTS_PER_ROUND

    def _send(self, connection: socket.socket, number: int) -> int:
        """Send a request, read its whole answer and return the status."""
        connection.sendall(self._requests[number % len(self._requests)])
        received = bytearray()
        while (length := _answer_length(received)) is None or len(received) < length:
            received += _received(connection)
        return _status(received)


def saturated_rate(port: int, requests: Sequence[bytes], num_connections: int, seconds: float) -> float:
    """Return the answers in a second when that many connections each send again as soon as they are answered.

    It takes longer than `seconds` where that is too short for an answer on each.

    Raises:
        ServiceUnavailableError: a request was not answered with 200.
    """
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        received: dict[socket.socket, bytearray] = {}
        for number in range(num_connections):
            connection = stack.enter_context(_connection(port))
            received[connection] = bytearray()
            selector.register(connection, selectors.EVENT_READ, connection)
            connection.sendall(requests[number % len(requests)])
        answered, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds or answered < num_connections:
            for key, _ in selector.select(timeout=1.0):
                connection = key.data
                buffer = received[connection]
                buffer += _received(connection)
                length = _answer_length(buffer)
                if length is not None and len(buffer) >= length:
                    _require_ok(_status(buffer))
                    buffer.clear()
                    answered += 1
                    connection.sendall(requests[(num_connections + answered) % len(requests)])
        return answered / elapsed


def alternate(keys: Sequence[K], seconds: float, seed: int, *, at_least: int = 10) -> Iterator[K]:
    """Give all keys again and again, each time in another order, for that long."""
    rng = np.random.default_rng(seed)
    deadline, turns = time.monotonic() + seconds, 0
    while time.monotonic() < deadline or turns < at_least:
        turns += 1
        yield from (keys[index] for index in rng.permutation(len(keys)))


@contextmanager
def _connection(port: int) -> Iterator[socket.socket]:
    deadline = time.monotonic() + _READY_WITHIN_S
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=60)
            break
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_S)
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def _answer_length(received: bytearray) -> int | None:
    """Return the bytes of the answer that begins here; None as long as its head is not whole."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(received[:end]).lower()
    if b"transfer-encoding: chunked" in head:
        last = received.find(_LAST_CHUNK, end)
        return None if last < 0 else last + len(_LAST_CHUNK)
    return end + 4 + int(head.split(b"content-length:")[1].split(b"\r\n")[0])


def _status(received: bytearray) -> int:
    return int(received.split(b" ", 2)[1])


def _require_ok(status: int) -> None:
    if status != _OK:
        raise ServiceUnavailableError(f"a server answered {status} during the measurement")


def _received(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ServiceUnavailableError("a server closed the connection during the measurement")
    return data
