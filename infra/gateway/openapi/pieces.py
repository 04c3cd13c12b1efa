"""Parameters, headers and replies that several operations share."""

from typing import Any

from infra.gateway.access import Role
from infra.gateway.openapi.schemas import Schema, ref
from infra.gateway.protocol.identifiers import MAX_ID_LENGTH

Piece = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_VERSION: Schema = {"type": "string", "pattern": "^[0-9]+$"}
_IDENTIFIER: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_ID_LENGTH, "pattern": "^[ -~]+$"}
_ARM: Schema = {"type": "string", "enum": ["champion", "challenger"]}

MODEL: Piece = {
    "name": "model",
    "in": "path",
    "required": True,
    "description": "Name of a served model, as `GET /v2/health/ready` lists them.",
    "schema": {"type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,62}$"},
}
VERSION: Piece = {
    "name": "version",
    "in": "path",
    "required": True,
    "description": "Version in the registry, as `GET /v2/models/{model}` lists them.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,9}$"},
}
JSON_LENGTH: Piece = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "description": "Bytes of the JSON, where the values of tensors follow it; 0 where the body is nothing but values.",
    "schema": {"type": "integer", "minimum": 0, "maximum": 10**12 - 1},
}
KEY: Piece = {
    "name": "X-Stillhouse-Key",
    "in": "header",
    "description": "What the split between champion and challenger goes by, such as a user. Default: the request's id.",
    "schema": _IDENTIFIER,
}
INVOKED_MODEL: Piece = {
    "name": "X-Stillhouse-Model",
    "in": "header",
    "description": "Which model; needed where the gateway does not serve exactly one.",
    "schema": _IDENTIFIER,
}

HEADERS: dict[str, Piece] = {
    "Arm": {"description": "The arm that the request was assigned to.", "schema": _ARM},
    "ServedBy": {"description": "The arm that answered; the champion after a fallback.", "schema": _ARM},
    "Digest": {
        "description": "SHA-256 of the model that answered.",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    },
    "ModelVersion": {"description": "Its version in the registry.", "schema": _VERSION},
    "RouteVersion": {"description": "Version of the route that the request met.", "schema": _VERSION},
    "RunId": {
        "description": "Flow run that registered the model, as `stillhouse model lineage run:ID` takes it; absent "
        "where the route does not say.",
        "schema": _IDENTIFIER,
    },
    "RequestId": {"description": "For feedback, and for the gateway's log.", "schema": _IDENTIFIER},
    "Cache": {
        "description": "Whether the answer was kept from an equal input; absent where nothing is kept.",
        "schema": {"type": "string", "enum": ["hit", "miss"]},
    },
    "JsonLength": {"description": "Bytes of the JSON that values follow.", "schema": {"type": "integer", "minimum": 0}},
    "RetryAfter": {"description": "Seconds after which to ask again.", "schema": {"type": "integer", "minimum": 1}},
    "Challenge": {"description": "How to send a token (RFC 6750).", "schema": _TEXT},
}

ANSWERED: dict[str, Piece] = {
    "X-Stillhouse-Arm": {"$ref": "#/components/headers/Arm"},
    "X-Stillhouse-Served-By": {"$ref": "#/components/headers/ServedBy"},
    "X-Stillhouse-Model-Digest": {"$ref": "#/components/headers/Digest"},
    "X-Stillhouse-Model-Version": {"$ref": "#/components/headers/ModelVersion"},
    "X-Stillhouse-Route-Version": {"$ref": "#/components/headers/RouteVersion"},
    "X-Stillhouse-Run-Id": {"$ref": "#/components/headers/RunId"},
    "X-Stillhouse-Request-Id": {"$ref": "#/components/headers/RequestId"},
    "X-Stillhouse-Cache": {"$ref": "#/components/headers/Cache"},
}
"""Headers of every answer that a model gave."""

_BUSY = {"Retry-After": {"$ref": "#/components/headers/RetryAfter"}}
_CHALLENGED = {"WWW-Authenticate": {"$ref": "#/components/headers/Challenge"}}
_NAMED = {"X-Stillhouse-Request-Id": {"$ref": "#/components/headers/RequestId"}}


def json_body(schema: str) -> Piece:
    """Return the content of a body in JSON."""
    return {"application/json": {"schema": ref(schema)}}


def _error(description: str, headers: Piece | None = None) -> Piece:
    return {"description": description, "headers": _NAMED | (headers or {}), "content": json_body("Error")}


RESPONSES: dict[str, Piece] = {
    "Wrong": _error("The request is wrong; the message says what is expected."),
    "NoToken": _error("No token, or one that is not known.", _CHALLENGED),
    "WrongRole": _error("The token does not allow this.", _CHALLENGED),
    "NotServed": _error("No such model, or no such version of it."),
    "Late": _error("Headers or body took too long."),
    "TooLong": _error("The body is longer than this gateway takes; none of it was read."),
    "Compressed": _error("The body is compressed."),
    "TooMany": _error("Too many requests wait, or too many bodies are being sent.", _BUSY),
    "HeadersTooLong": _error("The headers are too long."),
    "Failed": _error("The model gave no usable answer, or the gateway failed; its log says why."),
    "Unavailable": _error("Not ready, about to end, too many connections, or waited too long.", _BUSY),
}

_ANY = {400: "Wrong", 408: "Late", 431: "HeadersTooLong", 500: "Failed", 503: "Unavailable"}
_WITH_TOKEN = {401: "NoToken", 403: "WrongRole"}
_WITH_MODEL = {404: "NotServed"}
_WITH_BODY = {413: "TooLong", 415: "Compressed", 429: "TooMany"}


def operation(
    summary: str,
    answer: Piece,
    *,
    role: Role | None,
    parameters: list[Piece] | None = None,
    body: Piece | None = None,
    names_model: bool = True,
    others: dict[int, Piece] | None = None,
) -> Piece:
    """Describe one method of one path.

    Args:
        summary: what it does.
        answer: the reply when all is well.
        role: what a token must allow; None where none is asked for.
        parameters: of path and header.
        body: content of the request's body; None where it has none.
        names_model: whether it can miss a model.
        others: replies that are not as in other operations.
    """
    refused = _ANY | (_WITH_TOKEN if role else {}) | (_WITH_MODEL if names_model else {}) | (_WITH_BODY if body else {})
    replies = {200: answer} | {status: {"$ref": f"#/components/responses/{name}"} for status, name in refused.items()}
    replies |= others or {}
    described: Piece = {
        "summary": summary,
        "parameters": parameters or [],
        "responses": {str(status): replies[status] for status in sorted(replies)},
        # without a file of tokens the gateway asks nobody, hence the empty alternative
        "security": [{"token": [role]}, {}] if role else [],
    }
    return described | ({"requestBody": {"required": True, "content": body}} if body else {})
