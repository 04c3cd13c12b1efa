"""The reply that an answer makes: the same whether a model ran or the answer was there already."""

from infra.gateway.dispatch import Answer
from infra.gateway.http import JSON, JSON_LENGTH, REQUEST_ID, Header, Reply, error_reply
from infra.gateway.routing import ServedRoute

_BYTES: Header = (b"content-type", b"application/octet-stream")
_HIT: Header = (b"x-stillhouse-cache", b"hit")
_MISS: Header = (b"x-stillhouse-cache", b"miss")


def reply_of(served: ServedRoute, answer: Answer, request_id: str) -> Reply:
    """Return status, headers and body."""
    headers: list[Header] = [
        *served.headers[answer.arm, answer.served_by],
        (REQUEST_ID, request_id.encode()),
    ]
    if answer.cached is not None:
        headers.append(_HIT if answer.cached else _MISS)
    if answer.encoded is None:
        status, plain, body = error_reply(500, "the model gave no usable answer to this input")
        return status, [*plain, *headers], body
    body, json_bytes = answer.encoded
    if json_bytes is None:
        headers.append(JSON)
    else:
        headers += [_BYTES, (JSON_LENGTH, b"%d" % json_bytes)]
    return 200, headers, body
