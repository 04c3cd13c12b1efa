"""Names that callers give to requests, and those that are made up for them."""

import os
from typing import Any

from infra.gateway.errors import RequestError

MAX_ID_LENGTH = 128


def new_id() -> str:
    """Return an id that no other request has."""
    return os.urandom(16).hex()


def check_identifier(value: Any, what: str) -> str:
    """Return `value` if it is text that may stand in headers, logs and file columns.

    Raises:
        RequestError: 400.
    """
    if type(value) is str and 0 < len(value) <= MAX_ID_LENGTH and value.isascii() and value.isprintable():
        return value
    raise RequestError(400, f"{what} must be 1 to {MAX_ID_LENGTH} printable ASCII characters")


def request_id_of(document: dict[str, Any]) -> str:
    """Return the id that a request's document gives, or a new one.

    Raises:
        RequestError: 400, it is no identifier.
    """
    given = document.get("id")
    return new_id() if given is None else check_identifier(given, "'id'")
