"""Reading the JSON of requests: objects, and their optional `parameters`."""

from typing import Any

import orjson

from infra.gateway.errors import RequestError


def load_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object that `body` is.

    Raises:
        RequestError: 400, it is not one.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise RequestError(400, "the body is not valid JSON (NaN and Infinity are not JSON)") from None
    if type(document) is not dict:
        raise RequestError(400, "the body must be a JSON object")
    return document


def may_hold_booleans(text: bytes) -> bool:
    """Tell whether `true` or `false` occurs in a JSON text, if only within a name.

    A letter is looked for first: that is quick, and most texts lack it.
    """
    return (b"r" in text and b"true" in text) or (b"l" in text and b"false" in text)


def parameters_of(document: dict[str, Any]) -> dict[str, Any]:
    """Return the `parameters` of a request, a tensor or a wanted output.

    Raises:
        RequestError: 400, they are no object.
    """
    parameters = document.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise RequestError(400, "'parameters' must be an object")
    return parameters


def flag(parameters: dict[str, Any], name: str, *, default: bool = False) -> bool:
    """Return one parameter that is true or false.

    Raises:
        RequestError: 400, it is something else.
    """
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise RequestError(400, f"parameter '{name}' must be true or false")
    return value
