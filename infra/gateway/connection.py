"""One connection: uvicorn's, with limits on what a caller may do before its request is understood."""

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import ClassVar

import orjson
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from infra.gateway.admission import ARRIVAL, Admission

_MAX_HEADER_BYTES = 64 * 1024
_MAX_REST_BYTES = 64 * 1024

AtOnce = Callable[[Scope, bytes], tuple[int, list[tuple[bytes, bytes]], bytes] | None]
"""Answers a whole request, or returns None to leave it to the application."""

logger = logging.getLogger(__name__)


class Connection(HttpToolsProtocol):
    """Closes itself on headers that are late or long, and on a body that is, once its request was answered.

    The rest of a body that nobody reads is awaited for as long as headers are, and up to 64 KiB: closing at once would
    reset the connection under a caller who has not read the answer yet, or who sends the next request.
    """

    admission: ClassVar[Admission]
    header_timeout_s: ClassVar[float]
    at_once: ClassVar[AtOnce | None] = None
    """Asked first, of requests that came in one piece: what it answers needs neither a task nor a turn of the loop."""

    _header_timer: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _headers_due = True
    _has_ended = False
    _rest_bytes: int | None = None
    """What came of a body since its request was answered; None when nothing of it is awaited."""
    _is_receiving = False
    _begun: tuple[RequestResponseCycle, object] | None = None
    """The request whose headers are among the data that are being taken."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the caller."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came; count it while the headers are not whole."""
        self._has_ended = False
        self._is_receiving = type(self).at_once is not None
        super().data_received(data)
        self._is_receiving = False
        if self._begun is not None:
            self._answer_begun()
        if self._rest_bytes is not None and not self.transport.is_closing():
            self._rest_bytes += len(data)
            if self._rest_bytes > _MAX_REST_BYTES:
                self.transport.close()
            return
        if not self._headers_due or self._has_ended or self.transport.is_closing():
            return
        self._header_bytes += len(data)
        if self._header_bytes > _MAX_HEADER_BYTES:
            self._turn_away(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the headers are too long")
        elif self._header_timer is None:
            self._wait_for_headers()

    def on_headers_complete(self) -> None:
        """Begin the request."""
        self._headers_due, self._header_bytes = False, 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Expect the next request."""
        self._headers_due = self._has_ended = True
        if self._rest_bytes is not None:
            self._rest_bytes = None
            self._stop_waiting()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with the next request, unless the rest of this one's body is still to come."""
        super().on_response_complete()
        if self.cycle.response_complete and self.cycle.more_body and not self.transport.is_closing():
            self._rest_bytes = 0
            self._stop_waiting()
            self._wait_for_headers()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        self._turn_away(HTTPStatus.BAD_REQUEST, "this is not a valid HTTP request")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: object) -> None:
        if self.admission.draining:
            cycle.keep_alive = False  # the caller is to connect anew, to another gateway
        if app is service_unavailable:
            app = _full
        elif self._is_receiving:
            self._begun = cycle, app
            return
        else:
            cycle.scope[ARRIVAL] = self.admission.arrive()  # type: ignore[literal-required]
        super()._start_asgi_task(cycle, app)  # type: ignore[arg-type]

    def _answer_begun(self) -> None:
        """Answer the request that has just come at once, or give it the task that uvicorn would have given it."""
        assert self._begun is not None
        (cycle, app), self._begun = self._begun, None
        if self.transport.is_closing():  # what came after its headers was no HTTP
            return
        answer = type(self).at_once
        if answer is not None and not cycle.more_body and not cycle.flow.write_paused:
            reply = answer(cycle.scope, bytes(cycle.body))  # type: ignore[arg-type]
            if reply is not None:
                _write_whole(cycle, *reply)
                cycle.on_response = _nothing  # as uvicorn does at the end of a task
                return
        self._start_asgi_task(cycle, app)

    def _wait_for_headers(self) -> None:
        self._header_timer = self.loop.call_later(self.header_timeout_s, self._headers_are_late)

    def _stop_waiting(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _headers_are_late(self) -> None:
        self._header_timer = None
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait_for_headers()  # a reply is under way; nothing may be written between its bytes
        elif self._header_bytes and self._rest_bytes is None:
            self._turn_away(HTTPStatus.REQUEST_TIMEOUT, f"the headers took longer than {self.header_timeout_s:g} s")
        else:
            self.transport.close()

    def _turn_away(self, status: HTTPStatus, message: str) -> None:
        logger.info("%s: connection closed with %d: %s", self.client and self.client[0], status, message)
        body = orjson.dumps({"error": message})
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        self.transport.close()


def connection_class(admission: Admission, header_timeout_s: float, at_once: AtOnce | None = None) -> type[Connection]:
    """Return the class of the connections of one gateway.

    Args:
        admission: what bounds its requests.
        header_timeout_s: how long headers may take.
        at_once: answers requests without a task where it can; it must not wait for anything.
    """
    own: dict[str, object] = {"admission": admission, "header_timeout_s": header_timeout_s}
    if at_once is not None:
        own["at_once"] = staticmethod(at_once)
    return type("GatewayConnection", (Connection,), own)


def written_whole(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
    """Write a whole reply in one piece, where `send` is that of a connection which can take it; else return False.

    ASGI takes two messages for it, and uvicorn checks and copies each header of them. That is a good part of what the
    gateway adds to a request, which has nine; all of them are its own, and none has a byte that it has not checked.

    Args:
        send: what ASGI gives to the application.
        status: of a reply with a body.
        headers: with lower-case names, the length of the body among them, and without `connection`.
        body: the whole of it.
    """
    cycle = getattr(send, "__self__", None)
    if type(cycle) is not RequestResponseCycle or cycle.flow.write_paused or cycle.scope["method"] == "HEAD":
        return False
    if not cycle.disconnected:
        _write_whole(cycle, status, headers, body)
    return True


def _write_whole(cycle: RequestResponseCycle, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """Do what `RequestResponseCycle.send` does with the two messages of a reply."""
    parts = [STATUS_LINE[status]]
    for name, value in (*cycle.default_headers, *headers):
        parts += (name, b": ", value, b"\r\n")
    parts += (b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n", body)
    cycle.response_started = True
    cycle.waiting_for_100_continue = False
    cycle.transport.write(b"".join(parts))
    cycle.response_complete = True
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()


def _nothing() -> None:
    """Do nothing."""


async def _full(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request on one connection too many."""
    body = b'{"error":"too many connections are open"}'
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"retry-after", b"1"),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": HTTPStatus.SERVICE_UNAVAILABLE.value, "headers": headers})
    await send({"type": "http.response.body", "body": body})
