"""One connection: uvicorn's, with limits on what a caller may do before its request is understood."""

import asyncio
import logging
from http import HTTPStatus
from typing import ClassVar

import orjson
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from infra.gateway.admission import ARRIVAL, Admission

_MAX_HEADER_BYTES = 64 * 1024
_MAX_REST_BYTES = 64 * 1024

logger = logging.getLogger(__name__)


class Connection(HttpToolsProtocol):
    """Closes itself on headers that are late or long, and on a body that is, once its request was answered.

    The rest of a body that nobody reads is awaited for as long as headers are, and up to 64 KiB: closing at once would
    reset the connection under a caller who has not read the answer yet, or who sends the next request.
    """

    admission: ClassVar[Admission]
    header_timeout_s: ClassVar[float]

    _header_timer: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _headers_due = True
    _has_ended = False
    _rest_bytes: int | None = None
    """What came of a body since its request was answered; None when nothing of it is awaited."""

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
        super().data_received(data)
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
        else:
            cycle.scope[ARRIVAL] = self.admission.arrive()  # type: ignore[literal-required]
        super()._start_asgi_task(cycle, app)  # type: ignore[arg-type]

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


def connection_class(admission: Admission, header_timeout_s: float) -> type[Connection]:
    """Return the class of the connections of one gateway."""
    return type("GatewayConnection", (Connection,), {"admission": admission, "header_timeout_s": header_timeout_s})


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
