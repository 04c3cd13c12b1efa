"""Prefect's server, which says each request and each message of a websocket on standard error as it comes in."""

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prefect.server.api.server import create_app

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Application = Callable[[MutableMapping[str, Any], Receive, Any], Awaitable[None]]


def create() -> Application:
    """Return the application, for `uvicorn --factory`."""
    application = create_app()

    async def counted(scope: MutableMapping[str, Any], receive: Receive, send: Any) -> None:
        if scope["type"] == "http":
            _say(scope["method"], scope["path"])

        async def heard() -> MutableMapping[str, Any]:
            message = await receive()
            if message["type"] == "websocket.receive":
                _say("MESSAGE", scope["path"])
            return message

        await application(scope, heard, send)

    return counted


def _say(what: str, path: str) -> None:
    sys.stderr.write(f'"{what} {path} HTTP"\n')
    sys.stderr.flush()
