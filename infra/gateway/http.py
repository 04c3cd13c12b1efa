"""Bodies and replies on bare ASGI: starlette's requests cost more than the split."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

import orjson
from starlette.types import Message, Receive, Scope, Send

from infra.gateway.access import Access, Role
from infra.gateway.admission import Admission
from infra.gateway.connection import written_whole
from infra.gateway.errors import RequestError
from infra.gateway.metrics import GatewayMetrics
from infra.gateway.protocol.identifiers import new_id
from infra.gateway.request_log import RequestLog

Header = tuple[bytes, bytes]
Reply = tuple[int, list[Header], bytes]

CONTENT_TYPE = b"content-type"
JSON_LENGTH = b"inference-header-content-length"
REQUEST_ID = b"x-stillhouse-request-id"
JSON: Header = (CONTENT_TYPE, b"application/json")
_CLOSE: Header = (b"connection", b"close")
_FAILED = 400

logger = logging.getLogger(__name__)


class ClientGoneError(Exception):
    """The caller closed the connection; nobody is left to answer."""


class JsonEndpoint:
    """An ASGI application around `answer`: refusals become 4xx replies, and anything else a 500 without details."""

    def __init__(
        self,
        answer: Callable[[Scope, Receive], Awaitable[Reply]],
        metrics: GatewayMetrics,
        *,
        role: Role | None,
        access: Access | None,
        log: RequestLog,
    ) -> None:
        """Take what answers, and what it needs.

        Args:
            answer: gives the reply to one request.
            metrics: where refusals are counted.
            role: what a caller's token must allow; None lets everybody in.
            access: the tokens; None where the gateway has none.
            log: where refused and failed requests are told.
        """
        self._answer = answer
        self._metrics = metrics
        self.role = role
        self._access = None if role is None else access
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        started = time.perf_counter()
        failure = None
        try:
            if self._access is not None and self.role is not None:
                self._access.check(scope["headers"], self.role)
            status, headers, body = await self._answer(scope, receive)
        except RequestError as error:
            status, headers, body = error_reply(error.status, error.message, close=error.close)
            headers += [*error.headers, (REQUEST_ID, new_id().encode())]
            failure = error.message
            self._metrics.refused.labels(str(error.status)).inc()
        except ClientGoneError:
            return
        except Exception:  # the last line of defence: the caller gets no traceback, the log does
            status, headers, body = error_reply(500, "internal error; the gateway's log has the details")
            headers.append((REQUEST_ID, new_id().encode()))
            logger.exception("the request %s failed unexpectedly", headers[-1][1].decode())
        status, headers, body = with_length((status, headers, body))
        if status >= _FAILED or self._log.every_request:
            self._log.write(scope, status, headers, (time.perf_counter() - started) * 1e3, failure)
        if status < _FAILED and written_whole(send, status, headers, body):
            return
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def with_length(reply: Reply) -> Reply:
    """Add the length of the body to the headers."""
    reply[1].append((b"content-length", b"%d" % len(reply[2])))
    return reply


def is_plain(sent: dict[bytes, bytes]) -> bool:
    """Tell whether a body comes as it is, not compressed."""
    encoding = sent.get(b"content-encoding")
    return encoding is None or encoding.lower() == b"identity"


def json_reply(document: object, status: int = 200) -> Reply:
    """Make a JSON reply."""
    return status, [JSON], orjson.dumps(document)


def error_reply(status: int, message: str, *, close: bool = False) -> Reply:
    """Make the reply that every error has: `{"error": message}`."""
    _, headers, body = json_reply({"error": message})
    return status, [*headers, _CLOSE] if close else headers, body


async def read_body(
    headers: dict[bytes, bytes], receive: Receive, admission: Admission, limit_bytes: int, timeout_s: float
) -> bytes:
    """Return the request's body.

    A body that is declared too long is refused before any of it is read, one without a declared
    length as soon as it passes the limit.

    Raises:
        RequestError: 413 beyond `limit_bytes`, 415 when it is compressed, 408 after `timeout_s`, 429 when too
            many others are still coming.
        ClientGoneError: the caller left.
    """
    if int(headers.get(b"content-length", 0)) > limit_bytes:
        raise _too_long(limit_bytes)
    if not is_plain(headers):
        raise RequestError(415, "compressed bodies are not supported; send plain JSON", close=True)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message["body"]
        if len(body) > limit_bytes:
            raise _too_long(limit_bytes)
        return body
    try:
        with admission.upload():
            async with asyncio.timeout(timeout_s):
                return await _read_rest(message, receive, limit_bytes)
    except TimeoutError:
        raise RequestError(408, f"the body took longer than {timeout_s:g} s", close=True) from None


async def _read_rest(message: Message, receive: Receive, limit_bytes: int) -> bytes:
    """Collect the parts and join them once; adding each to the last would be quadratic."""
    parts: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit_bytes:
            raise _too_long(limit_bytes)
        if not message.get("more_body", False):
            return b"".join(parts)
        message = await receive()


def _too_long(limit_bytes: int) -> RequestError:
    return RequestError(413, f"the body is longer than {limit_bytes} bytes", close=True)
